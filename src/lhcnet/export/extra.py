"""Packages that only exported models need: the optional extra `lhcnet[export]`."""

from __future__ import annotations

from importlib.util import find_spec

from lhcnet.errors import LhcnetError

WRITING, RUNNING = ("onnx", "onnxscript"), ("onnxruntime",)  # torch.onnx writes with onnxscript


def require(*packages: str) -> None:
    """Raise `LhcnetError` with the command that installs them if some of these packages are missing."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise LhcnetError(f"this needs {' and '.join(missing)}, not installed here: pip install 'lhcnet[export]'")
