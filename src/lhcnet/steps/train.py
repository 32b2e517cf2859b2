"""Training stages 1-4."""

from __future__ import annotations

import logging
from pathlib import Path

from lhcnet.config import (
    PLAIN,
    Checkpoints,
    Compute,
    Network,
    SetName,
    Stage,
    Variant,
    module_arguments,
)
from lhcnet.data.store import open_store
from lhcnet.errors import LhcnetError
from lhcnet.saved import Architecture, ModelInfo, Provenance, SavedModel, open_model
from lhcnet.steps.fit_model import fit_model, refuse_diverged, refuse_other_data

log = logging.getLogger("lhcnet")


def train(
    trainval: Path,
    out: Path,
    *,
    number: int,
    stage: Stage,
    seed: int,
    compute: Compute,
    checkpoints: Checkpoints | None = None,
    network: Network | None = None,
    variant: Variant | None = None,
    standalone: bool = False,
    start: Path | None = None,
    execution: str | None = None,
) -> SavedModel:
    """One training stage: from `network` (stage 1) or from the model directory `start` (stages 2-4).

    In the stand-alone pipeline (`standalone`) stage 1 may begin with LHC modules (`variant`) in the network.

    A run that diverges is written like any other, with status `diverged` and its reason: selection rejects it and
    the pipeline goes on. With `checkpoints`, one that was interrupted goes on where it stood.
    """
    from lhcnet.models.lhcnet import insert_modules
    from lhcnet.weights.imagenet import load_start

    if (number == 1) != (start is None) or (start is None) != (network is not None):
        raise LhcnetError(
            f"stage {number}: expected the settings of a new network in stage 1, a model to start from after"
        )
    if variant is not None and not (standalone and number == 1):
        raise LhcnetError(f"stage {number}: LHC modules enter in stage 1 of the stand-alone pipeline, or by insert_lhc")
    store = open_store(trainval)
    if start is None:
        assert network is not None
        architecture = Architecture.of(network)
        model, origin = load_start(network.weights, architecture.build(seed))
        name = variant.name if variant else None
        if variant is not None:
            insert_modules(model, module_arguments(variant.modules), seed)
            architecture = architecture.model_copy(update={"modules": variant.modules})
        set_: SetName = "standalone" if standalone else "backbone"
        id_ = f"standalone/{name or PLAIN}/seed-{seed}/stage1" if standalone else "backbone/stage1"
    else:
        begun = open_model(start)
        id_, set_, name = _identify(begun, number, seed)
        refuse_other_data(begun, store, trainval)
        refuse_diverged(begun)
        architecture, model, origin = begun.info.architecture, begun.network(), begun.weights_digest()
    info = ModelInfo(
        architecture=architecture,
        provenance=Provenance(id=id_, set=set_, stage=number, seed=seed, variant=name, data=store.digest, start=origin),
    )
    checkpoint = fit_model(
        model, info, store, out, stage=stage, compute=compute, checkpoints=checkpoints, execution=execution
    )
    if checkpoint:
        checkpoint.remove()
    return open_model(out)


def _identify(start: SavedModel, number: int, seed: int) -> tuple[str, SetName, str | None]:
    """(id, set, variant) of the model that stage `number` makes of `start`."""
    p = start.info.provenance
    if p.set == "standalone":
        return f"standalone/{p.variant or PLAIN}/seed-{seed}/stage{number}", p.set, p.variant
    if number < 4:
        return f"backbone/stage{number}", "backbone", None
    if p.variant is None:
        return f"A/seed-{seed}", "A", None
    return f"B/{p.variant}" if p.set == "B" else f"C/{p.variant}/seed-{seed}", p.set, p.variant
