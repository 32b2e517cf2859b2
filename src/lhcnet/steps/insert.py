"""Insertion of LHC modules into a trained ResNet34v2."""

from __future__ import annotations

import logging
from pathlib import Path

from lhcnet.config import SetName, Variant, module_arguments, parse
from lhcnet.errors import LhcnetError
from lhcnet.runtime import memory_errors
from lhcnet.saved import MODEL_FOLDER, Architecture, Metrics, ModelInfo, Provenance, SavedModel, open_model, save
from lhcnet.steps.outputs import check_outputs

log = logging.getLogger("lhcnet")


def insert_lhc(model: Path, out: Path, *, variant: Variant, set_: SetName, seed: int) -> SavedModel:
    """Insert five new attention modules into a trained ResNet34v2. No weight is frozen.

    Args:
        model: model directory of a ResNet34v2 without modules.
        out: model directory to write.
        variant: settings of the five modules.
        set_: the set that the model belongs to, B or C.
        seed: draws the initial weights of the modules.

    Returns:
        The model with its modules, ready for stage 4.

    Raises:
        LhcnetError: the model has modules already, its training diverged, or the heads do not fit the maps.
    """
    from lhcnet.models.lhcnet import insert_modules

    check_outputs((out, MODEL_FOLDER), inputs=[model])
    saved = open_model(model)
    if saved.info.architecture.modules is not None:
        raise LhcnetError(f"{model}: has attention modules already; expected a plain ResNet34v2")
    saved.require_trained()
    values = saved.info.architecture.to_dict() | {"modules": module_arguments(variant.modules)}
    architecture = parse(Architecture, values, f"variants.{variant.name}")  # refuses a network that cannot be built
    try:
        with memory_errors("network"):
            network = insert_modules(saved.network(), module_arguments(variant.modules), seed)
    except ValueError as error:
        raise LhcnetError(f"variants.{variant.name}: {error}") from None
    p = saved.info.provenance
    info = ModelInfo(
        architecture=architecture,
        provenance=Provenance(
            id=f"{set_}/{variant.name}/seed-{seed}/inserted",
            set=set_,
            stage=p.stage,
            seed=seed,
            variant=variant.name,
            data=p.data,
            start=saved.weights_digest(),
        ),
    )
    save(out, network, info, Metrics(status="inserted"), [])
    log.info("%s: inserted five attention modules (%s, seed %d)", saved.id, variant.name, seed)
    return open_model(out)
