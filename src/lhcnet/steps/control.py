"""LHC-NetC: the five weights of the residual sums."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lhcnet.config import Control, Stage
from lhcnet.data.store import Store, open_store
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.files import write_json
from lhcnet.protocol.selection import read_selection
from lhcnet.saved import ModelInfo, Provenance, SavedModel, open_model
from lhcnet.steps.context import RunContext
from lhcnet.steps.control_models import CONTROL_PREFIX, CONTROL_STAGE, open_controlled
from lhcnet.steps.fit_model import fit_model
from lhcnet.steps.outputs import CONTROL_FOLDER, check_outputs

log = logging.getLogger("lhcnet")


def control(
    models: Sequence[Path],
    selection: Path,
    trainval: Path,
    out: Path,
    *,
    control: Control,
    context: RunContext,
    train: Callable[[SavedModel, Store, Path], Path | None] | None = None,
) -> list[SavedModel]:
    """LHC-NetC: train the five weights w of the residual sums of trained LHC-Nets; all other weights are frozen.

    The data seed of each LHC-NetC is that of its LHC-Net. Networks with other attention than LHC are left out.

    Args:
        models: model directories of sets B and C.
        selection: `selection.json`; it names the kept models and the chosen one.
        trainval: store with the splits train and validation.
        out: folder to write: `control.json`, and one model directory for each LHC-NetC.
        control: which LHC-Nets to start from (none, the chosen one, all kept ones), and the settings of the training.
        context: device, checkpoints and execution.
        train: writes the LHC-NetC of an LHC-Net and returns its checkpoint, if any; None: trains it in this process.

    Returns:
        The LHC-NetCs, in the order of their ids.

    Raises:
        LhcnetError: a selected model is not in `models`, was trained on other data, or has other weights than the
            selection says.
    """
    check_outputs(
        (out, CONTROL_FOLDER),
        inputs=[*models, selection, trainval],
        execution=context.execution,
        checkpoints=context.checkpoints,
    )
    chosen = read_selection(selection)
    with_lhc = {model.id for model in chosen.kept if model.set != "A"}
    wanted = {"none": set(), "chosen": {chosen.chosen}, "kept": with_lhc}[control.models]
    starts = {model.id: model for path in models if (model := open_model(path)).id in wanted}
    if lost := sorted(wanted - set(starts)):
        raise LhcnetError(f"{selection}: selects models that are missing from the input: {', '.join(lost)}")
    for id_ in [id_ for id_, model in starts.items() if not model.info.architecture.has_lhc]:
        log.info("%s: has no LHC modules; no LHC-NetC is trained from it", id_)
        del starts[id_]
    recorded = {model.id: model.weights for model in chosen.kept}
    for id_, model in starts.items():
        model.require_weights(recorded[id_], selection)
    store = open_store(trainval)
    train = train or partial(_train, training=control.training, context=context)
    names = [str(number) for number in range(len(starts))]
    unfinished: list[Path | None] = []  # checkpoints, removed only when the folder is complete
    with atomic_directory(out, CONTROL_FOLDER) as folder:
        for name, id_ in zip(names, sorted(starts), strict=True):
            unfinished.append(train(starts[id_], store, folder / name))
        write_json(folder / "control.json", {"models": names})
    for file in filter(None, unfinished):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the checkpoint %s could not be removed: %s", file, error.strerror or error)
    return open_controlled(out)


def train_control(start: Path, trainval: Path, out: Path, *, training: Stage, context: RunContext) -> Path | None:
    """Train one LHC-NetC.

    Args:
        start: model directory of its LHC-Net.
        trainval: store with the splits train and validation.
        out: model directory to write.
        training: settings of the training.
        context: device, checkpoints and execution.

    Returns:
        The file of its checkpoint, if there is one; the caller removes it when it has no more use for it.

    Raises:
        LhcnetError: the LHC-Net was trained on other data.
    """
    return _train(open_model(start), open_store(trainval), out, training=training, context=context)


def control_info(start: SavedModel) -> ModelInfo:
    """Architecture and provenance of the LHC-NetC that is trained from `start`."""
    p = start.info.provenance
    return ModelInfo(
        architecture=start.info.architecture.model_copy(update={"control": True}),
        provenance=Provenance(
            id=f"{CONTROL_PREFIX}{start.id}",
            set="control",
            stage=CONTROL_STAGE,
            seed=p.seed,
            variant=p.variant,
            data=p.data,
            start=start.weights_digest(),
            start_weights=p.start_weights,
        ),
    )


def _train(start: SavedModel, store: Store, out: Path, *, training: Stage, context: RunContext) -> Path | None:
    from lhcnet.models.lhcnet import add_control, freeze_all_but_control

    start.require_data(store.digest, store.path)
    try:
        network = freeze_all_but_control(add_control(start.network()))
    except ValueError as error:
        raise LhcnetError(f"{start.path}: {error}") from None
    checkpoint = fit_model(network, control_info(start), store, out, stage=training, context=context)
    return checkpoint.path if checkpoint else None
