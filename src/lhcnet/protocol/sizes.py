"""Parameters of the networks of an execution, counted as in the paper's Table A2."""

from __future__ import annotations

from lhcnet.saved import Architecture

OTHER = "other attention"  # a variant with Squeeze and Excitation, CBAM or ECA in a slot instead of LHC


def sizes(architecture: Architecture) -> dict[str, tuple[float, float | None]]:
    """Count the networks with these settings, with and without attention modules.

    Returns:
        Name of the network -> (parameters in millions, share of the attention modules in them in per cent).
    """
    from lhcnet.config import module_arguments
    from lhcnet.models.lhcnet import count_parameters, insert_modules

    without = architecture.model_copy(update={"modules": None, "control": False})
    network = without.build(seed=None, device="meta") if architecture.is_lhcnet else without.build(seed=0)
    plain = count_parameters(network) / 1e6
    found: dict[str, tuple[float, float | None]] = {"ResNet34v2": (plain, None)}
    if architecture.modules is not None:
        with_attention = count_parameters(insert_modules(network, module_arguments(architecture.modules), 0)) / 1e6
        names = ("LHC-Net", "LHC-NetC") if architecture.has_lhc else (OTHER,)
        found |= dict.fromkeys(names, (with_attention, 100 * (1 - plain / with_attention)))
    return found
