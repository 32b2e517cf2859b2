"""All analyses of one trained LHC-Net, on images of the validation split: the test split is sealed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lhcnet.analysis.heads import HeadStatistics, head_statistics
from lhcnet.analysis.necessity import necessity, plan
from lhcnet.analysis.parameter_counts import sizes
from lhcnet.analysis.results import Analysis, AnalysisReport, HeadFigures, ModuleFigures
from lhcnet.analysis.switching import initial_network, lhc_slots, probabilities
from lhcnet.runtime import Device
from lhcnet.saved import SavedModel


def evenly_spaced(total: int, wanted: int) -> NDArray[np.intp]:
    """Evenly spaced row numbers below `total`; a store is ordered by label, so that every class keeps its share."""
    return np.linspace(0, total - 1, min(wanted, total)).round().astype(np.intp)


def analyse(
    saved: SavedModel,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    device: Device,
    batch_size: int = 32,
) -> Analysis:
    """All analyses of a trained LHC-Net or LHC-NetC.

    Args:
        saved: the model.
        images, labels: (N, 48, 48) and (N,) uint8 of the validation split.
        device, batch_size: as for predictions; attention maps are computed in smaller batches.

    Raises:
        ValueError: a slot of the network holds something other than an LHC module.
    """
    network, initial = saved.network(), initial_network(saved)
    device.move(network)
    device.move(initial)
    size = saved.info.architecture.input_size
    heads = [slot.lhc.heads for slot in lhc_slots(network)]
    p = probabilities(network, plan(heads), initial, images, input_size=size, device=device, batch_size=batch_size)
    statistics = head_statistics(network, images, input_size=size, device=device, batch_size=batch_size)
    report = AnalysisReport(
        model=saved.id,
        weights=saved.weights_digest(),
        data=saved.info.provenance.data,
        n=len(labels),
        necessity=necessity(heads, p, labels, split="validation"),
        modules=tuple(_figures(slot, module) for slot, module in zip(network.slots, statistics, strict=True)),
        sizes=sizes(),
    )
    arrays: dict[str, NDArray[Any]] = {"predicted": p.argmax(2).astype(np.uint8), "labels": labels}
    for slot, module in zip(network.slots, statistics, strict=True):
        arrays[f"correlation/{slot}"] = module.correlation
        arrays[f"scaling/{slot}"] = module.scaling
        arrays[f"attention/{slot}"] = module.attention
    return Analysis(report, arrays)


def _figures(slot: str, module: HeadStatistics) -> ModuleFigures:
    pairs, quantiles = module.pairs(), module.quantiles().tolist()
    return ModuleFigures(
        slot=slot,
        channels=module.attention.shape[1],
        g=module.g,
        correlation_mean=float(pairs.mean()) if len(pairs) else None,
        correlation_max=float(pairs.max()) if len(pairs) else None,
        heads=tuple(
            HeadFigures(
                head=h + 1,
                scaling=tuple(quantiles[h]),
                scaling_mean=float(module.scaling_mean[h]),
                entropy=float(module.entropy[h]),
                entropy_of_mean=float(module.entropy_of_mean[h]),
            )
            for h in range(len(quantiles))
        ),
    )
