"""Insertion of LHC modules into a trained backbone."""

from __future__ import annotations

import logging
from pathlib import Path

from lhcnet.config import Config, SetName, Variant, module_arguments, parse
from lhcnet.errors import LhcnetError
from lhcnet.runtime import memory_errors
from lhcnet.saved import MODEL_FOLDER, Architecture, Metrics, ModelInfo, Provenance, SavedModel, open_model, save
from lhcnet.steps.outputs import check_outputs
from lhcnet.validation import SLOTS

log = logging.getLogger("lhcnet")


def insert_lhc(model: Path, out: Path, *, variant: Variant, set_: SetName, seed: int) -> SavedModel:
    """Insert a new attention module into each slot of a trained backbone. No weight is frozen.

    Args:
        model: model directory of a backbone without modules.
        out: model directory to write.
        variant: settings of the modules.
        set_: the set that the model belongs to, B or C.
        seed: draws the initial weights of the modules.

    Returns:
        The model with its modules, ready for stage 4.

    Raises:
        LhcnetError: the model has modules already, its training diverged, there is not a module for each slot, or the
            heads do not fit the maps.
    """
    from lhcnet.models.lhcnet import insert_modules

    check_outputs((out, MODEL_FOLDER), inputs=[model])
    saved = open_model(model)
    if saved.info.architecture.modules is not None:
        raise LhcnetError(
            f"{model}: has attention modules already; expected a plain {saved.info.architecture.plain_name}"
        )
    saved.require_trained()
    architecture = with_modules(saved.info.architecture, variant)
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
            start_weights=p.start_weights,
        ),
    )
    save(out, network, info, Metrics(status="inserted"), [])
    log.info("%s: inserted %d attention modules (%s, seed %d)", saved.id, len(variant.modules), variant.name, seed)
    return open_model(out)


def with_modules(architecture: Architecture, variant: Variant) -> Architecture:
    """The architecture with the modules of a variant.

    Raises:
        LhcnetError: there is not a module for each slot, or the network would be too large.
    """
    layers = architecture.layers
    if layers and len(variant.modules) != len(layers):
        raise LhcnetError(
            f"variants.{variant.name}: has {len(variant.modules)} modules, but {architecture.backbone} has "
            f"{len(layers)} slots, after {', '.join(layers)}; expected {', '.join(SLOTS[: len(layers)])}"
        )
    values = architecture.to_dict() | {"modules": module_arguments(variant.modules)}
    return parse(Architecture, values, f"variants.{variant.name}")


def check_variants(config: Config) -> str:
    """Build the backbone of the settings, and insert the modules of each variant.

    Returns:
        The slots, a line each: the layer that it follows, and the size of its maps.

    Raises:
        LhcnetError: the backbone cannot be built, or the modules of a variant do not fit its slots.
    """
    from lhcnet.models.host import layer_sizes
    from lhcnet.models.lhcnet import insert_modules

    architecture = Architecture.of(config.network)
    for name in config.variants:
        modules = module_arguments(with_modules(architecture, config.variant(name)).modules or ())
        try:
            insert_modules(architecture.build(seed=0), modules, 0)
        except ValueError as error:
            raise LhcnetError(f"variants.{name}: {error}") from None
    return layer_sizes(architecture.build(seed=0))
