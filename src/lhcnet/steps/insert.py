"""Insertion of LHC modules into a trained ResNet34v2."""

from __future__ import annotations

import logging
from pathlib import Path

from lhcnet.config import SetName, Variant, module_arguments
from lhcnet.errors import LhcnetError
from lhcnet.saved import Metrics, ModelInfo, Provenance, SavedModel, open_model, save
from lhcnet.steps.fit_model import refuse_diverged

log = logging.getLogger("lhcnet")


def insert_lhc(model: Path, out: Path, *, variant: Variant, set_: SetName, seed: int) -> SavedModel:
    """Put five fresh attention modules (their start drawn from `seed`) into a trained ResNet; nothing is frozen."""
    from lhcnet.models.lhcnet import insert_modules

    saved = open_model(model)
    if saved.info.architecture.modules is not None:
        raise LhcnetError(f"{model}: has attention modules already; expected a plain ResNet34v2")
    refuse_diverged(saved)
    try:
        network = insert_modules(saved.network(), module_arguments(variant.modules), seed)
    except ValueError as error:
        raise LhcnetError(f"variants.{variant.name}: {error}") from None
    p = saved.info.provenance
    info = ModelInfo(
        architecture=saved.info.architecture.model_copy(update={"modules": variant.modules}),
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
    log.info("%s: five attention modules inserted (%s, seed %d)", out, variant.name, seed)
    return open_model(out)
