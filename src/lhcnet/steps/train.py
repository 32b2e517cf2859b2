"""Training stages 1-4 (Tables 3-6).

A training that diverges is written like any other, with the status `diverged` and its reason: selection rejects it and
the pipeline continues. With checkpoints in the context, an interrupted training resumes where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lhcnet.config import PLAIN, Network, SetName, Stage, Variant, module_arguments
from lhcnet.data.store import Store, open_store
from lhcnet.runtime import memory_errors
from lhcnet.saved import MODEL_FOLDER, Architecture, ModelInfo, Provenance, SavedModel, open_model
from lhcnet.steps.context import RunContext
from lhcnet.steps.fit_model import finish, fit_model
from lhcnet.steps.insert import with_modules
from lhcnet.steps.outputs import check_outputs
from lhcnet.steps.start_folder import open_start_weights

if TYPE_CHECKING:
    from lhcnet.model_record import StartWeights
    from lhcnet.models.slots import SlotNetwork


def train_backbone(
    trainval: Path,
    out: Path,
    *,
    network: Network,
    stage: Stage,
    seed: int,
    context: RunContext,
    start_weights: Path | None = None,
) -> SavedModel:
    """Stage 1 of the backbone: train a new ResNet34v2, or the network that `network.backbone` names (Table 3).

    Args:
        trainval: store with the splits train and validation.
        out: model directory to write.
        network: which network, its size and its initial weights (ImageNet, a file, or none).
        stage: settings of stage 1.
        seed: data seed; it also draws the weights that `network.weights` does not give.
        context: device, checkpoints and execution.
        start_weights: folder that the step `start_weights` wrote for these settings; None: the file that
            `network.weights` names is looked for, and downloaded if necessary.

    Returns:
        The trained model, `backbone/stage1`.

    Raises:
        LhcnetError: the store or the initial weights cannot be read.
    """
    new = network, None, start_weights
    return _train_new(trainval, out, "backbone/stage1", "backbone", *new, stage=stage, seed=seed, context=context)


def train_standalone(
    trainval: Path,
    out: Path,
    *,
    network: Network,
    variant: Variant | None,
    stage: Stage,
    seed: int,
    context: RunContext,
    start_weights: Path | None = None,
) -> SavedModel:
    """Stage 1 of the stand-alone pipeline: train a new LHC-Net, or the ResNet34v2 to compare it with (section 4.2).

    Args:
        trainval: store with the splits train and validation.
        out: model directory to write.
        network: which network, its size and its initial weights (ImageNet, a file, or none).
        variant: the attention modules; None trains the plain ResNet34v2.
        stage: settings of stage 1.
        seed: data seed; it also draws the weights that `network.weights` does not give.
        context: device, checkpoints and execution.
        start_weights: folder that the step `start_weights` wrote for these settings; None: the file that
            `network.weights` names is looked for, and downloaded if necessary.

    Returns:
        The trained model, `standalone/<network>/seed-<seed>/stage1`.

    Raises:
        LhcnetError: the store or the initial weights cannot be read.
    """
    id_ = standalone_id(variant.name if variant else None, seed, 1)
    new = network, variant, start_weights
    return _train_new(trainval, out, id_, "standalone", *new, stage=stage, seed=seed, context=context)


def _train_new(
    trainval: Path,
    out: Path,
    id_: str,
    set_: SetName,
    network: Network,
    variant: Variant | None,
    start_weights: Path | None,
    *,
    stage: Stage,
    seed: int,
    context: RunContext,
) -> SavedModel:
    """Stage 1 of a new network."""
    inputs = [trainval, start_weights]
    check_outputs((out, MODEL_FOLDER), inputs=inputs, execution=context.execution, checkpoints=context.checkpoints)
    store, new = open_store(trainval), _new_network(network, variant, start_weights, seed)
    model, architecture, origin, known = new
    provenance = Provenance(
        id=id_,
        set=set_,
        stage=1,
        seed=seed,
        variant=variant.name if variant else None,
        data=store.digest,
        start=origin,
        start_weights=known,
    )
    info = ModelInfo(architecture=architecture, provenance=provenance)
    return finish(fit_model(model, info, store, out, stage=stage, context=context), out)


def train_stage(
    trainval: Path, start: Path, out: Path, *, stage_number: int, stage: Stage, seed: int, context: RunContext
) -> SavedModel:
    """Stages 2-4: train a model further (Tables 4-6).

    Args:
        trainval: store with the splits train and validation.
        start: model directory to start from; it decides the set that the result belongs to.
        out: model directory to write.
        stage_number: 2, 3 or 4.
        stage: settings of the stage.
        seed: data seed.
        context: device, checkpoints and execution.

    Returns:
        The trained model.

    Raises:
        LhcnetError: `start` diverged, or was trained on other data than `trainval`.
    """
    check_outputs(
        (out, MODEL_FOLDER), inputs=[trainval, start], execution=context.execution, checkpoints=context.checkpoints
    )
    store, begun = open_store(trainval), open_model(start)
    info = stage_info(begun, store, trainval, stage_number=stage_number, seed=seed)
    return finish(fit_model(begun.network(), info, store, out, stage=stage, context=context), out)


def stage_info(start: SavedModel, store: Store, trainval: Path, *, stage_number: int, seed: int) -> ModelInfo:
    """Architecture and provenance of the model that stage `stage_number` makes of `start`.

    Raises:
        LhcnetError: `start` diverged, or was trained on other data than those of `store`, which lies at `trainval`.
    """
    start.require_data(store.digest, trainval)
    start.require_trained()
    id_, set_, variant = _identify(start, stage_number, seed)
    provenance = Provenance(
        id=id_,
        set=set_,
        stage=stage_number,
        seed=seed,
        variant=variant,
        data=store.digest,
        start=start.weights_digest(),
        start_weights=start.info.provenance.start_weights,
    )
    return ModelInfo(architecture=start.info.architecture, provenance=provenance)


def _new_network(
    network: Network, variant: Variant | None, start_weights: Path | None, seed: int
) -> tuple[SlotNetwork, Architecture, str, StartWeights | None]:
    """(network, its architecture, digest and record of its start weights), with the modules of `variant` if any."""
    from lhcnet.models.lhcnet import insert_modules
    from lhcnet.weights.start import describe_weights, initial_weights

    file = open_start_weights(start_weights, network) if start_weights else None
    architecture = Architecture.of(network)
    with memory_errors("network"):
        model = architecture.build(seed)
        origin = initial_weights(network.weights, model, file)
        if variant is not None:
            architecture = with_modules(architecture, variant)
            insert_modules(model, module_arguments(variant.modules), seed)
    return model, architecture, origin, describe_weights(network.weights, network.backbone, origin)


def _identify(start: SavedModel, stage_number: int, seed: int) -> tuple[str, SetName, str | None]:
    """(id, set, variant) of the model that stage `stage_number` makes of `start`."""
    p = start.info.provenance
    if p.set == "standalone":
        return standalone_id(p.variant, seed, stage_number), p.set, p.variant
    if stage_number < 4:
        return f"backbone/stage{stage_number}", "backbone", None
    if p.variant is None:
        return f"A/seed-{seed}", "A", None
    return f"B/{p.variant}" if p.set == "B" else f"C/{p.variant}/seed-{seed}", p.set, p.variant


def standalone_id(variant: str | None, seed: int, stage_number: int) -> str:
    return f"standalone/{variant or PLAIN}/seed-{seed}/stage{stage_number}"
