"""LHC-Net: Local multi-Head Channel self-attention for facial expression recognition.

Pecoraro, Basile, Bono, "Local Multi-Head Channel Self-Attention for Facial Expression Recognition", Information 2022,
13, 419. Public names are imported when they are first used, so `import lhcnet` alone does not load torch.

Example:
    >>> import torch
    >>> from lhcnet import LHC
    >>> LHC(channels=16, height=14, width=14, heads=7, d=14)(torch.rand(1, 16, 14, 14)).shape
    torch.Size([1, 16, 14, 14])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lhcnet.models.insertion import insert_lhc
    from lhcnet.models.lhc import LHC
    from lhcnet.models.lhcnet import LHCNet
    from lhcnet.prediction.loading import load
    from lhcnet.prediction.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["LHC", "LHCNet", "Predictor", "__version__", "insert_lhc", "load"]

_MODULES = {
    "LHC": "lhcnet.models.lhc",
    "LHCNet": "lhcnet.models.lhcnet",
    "Predictor": "lhcnet.prediction.predictor",
    "insert_lhc": "lhcnet.models.insertion",
    "load": "lhcnet.prediction.loading",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
