"""Training stages, insertion of LHC modules, and the five weights of LHC-NetC."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lhcnet.config import (
    PLAIN,
    Checkpoints,
    Compute,
    Control,
    FrozenModel,
    Name,
    Network,
    SetName,
    Stage,
    Variant,
    code_digest,
    flat,
    module_arguments,
    parse,
)
from lhcnet.data.store import Store, open_store
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.files import read_json, write_json
from lhcnet.protocol.selection import SelectionReport
from lhcnet.saved import Architecture, Epoch, Metrics, ModelInfo, Provenance, SavedModel, open_model, save
from lhcnet.tracking.record import curve, final, tracked

if TYPE_CHECKING:
    from lhcnet.models.resnetv2 import ResNetV2
    from lhcnet.training.checkpoint import Checkpoint

log = logging.getLogger("lhcnet")

CONTROL_STAGE = 5  # LHC-NetC is trained after stage 4
CONTROL_PREFIX = "LHC-NetC/"


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
        _refuse_other_data(begun, store, trainval)
        _refuse_diverged(begun)
        architecture, model, origin = begun.info.architecture, begun.network(), begun.weights_digest()
    info = ModelInfo(
        architecture=architecture,
        provenance=Provenance(id=id_, set=set_, stage=number, seed=seed, variant=name, data=store.digest, start=origin),
    )
    checkpoint = _fit(
        model, info, store, out, stage=stage, compute=compute, checkpoints=checkpoints, execution=execution
    )
    if checkpoint:
        checkpoint.remove()
    return open_model(out)


def control(
    models: Sequence[Path],
    selection: Path,
    trainval: Path,
    out: Path,
    *,
    control: Control,
    compute: Compute,
    checkpoints: Checkpoints | None = None,
    execution: str | None = None,
) -> list[SavedModel]:
    """LHC-NetC: from trained LHC-Nets, train the five weights w of the residual sums and nothing else.

    The data seed of each is that of its LHC-Net. Writes a folder with one model directory each beside
    `control.json`; with `models: none` there is none.
    """
    from lhcnet.models.lhcnet import add_control, freeze_all_but_control

    chosen = parse(SelectionReport, read_json(selection), str(selection))
    with_lhc = {entry.id for entry in chosen.entries if entry.kept and entry.set != "A"}
    wanted = {"none": set(), "chosen": {chosen.chosen}, "kept": with_lhc}[control.models]
    starts = {model.id: model for path in models if (model := open_model(path)).id in wanted}
    if lost := sorted(wanted - set(starts)):
        raise LhcnetError(f"{selection}: names models that were not handed in: {', '.join(lost)}")
    for id_ in [id_ for id_, model in starts.items() if not model.info.architecture.has_lhc]:
        log.info("%s: has other attention than LHC, so there is no LHC-NetC of it", id_)
        del starts[id_]
    store = open_store(trainval)
    names = [str(number) for number in range(len(starts))]
    done: list[Checkpoint | None] = []  # the folder is not there before the last is trained
    with atomic_directory(out, "control.json") as folder:
        for name, id_ in zip(names, sorted(starts), strict=True):
            begun = starts[id_]
            _refuse_other_data(begun, store, trainval)
            try:
                network = freeze_all_but_control(add_control(begun.network()))
            except ValueError as error:
                raise LhcnetError(f"{begun.path}: {error}") from None
            p = begun.info.provenance
            info = ModelInfo(
                architecture=begun.info.architecture.model_copy(update={"control": True}),
                provenance=Provenance(
                    id=f"{CONTROL_PREFIX}{id_}",
                    set="control",
                    stage=CONTROL_STAGE,
                    seed=p.seed,
                    variant=p.variant,
                    data=p.data,
                    start=begun.weights_digest(),
                ),
            )
            done.append(
                _fit(
                    network,
                    info,
                    store,
                    folder / name,
                    stage=control.training,
                    compute=compute,
                    checkpoints=checkpoints,
                    execution=execution,
                )
            )
        write_json(folder / "control.json", {"models": names})
    for checkpoint in filter(None, done):
        checkpoint.remove()
    return open_controlled(out)


class ControlIndex(FrozenModel):
    """`control.json`: the folders of the LHC-NetCs beside it."""

    models: tuple[Name, ...]  # no way out of the folder


def open_controlled(folder: Path) -> list[SavedModel]:
    """The LHC-NetCs that `control` wrote."""
    index = parse(ControlIndex, read_json(folder / "control.json"), str(folder / "control.json"))
    return [open_model(folder / name) for name in index.models]


def _fit(
    model: ResNetV2,
    info: ModelInfo,
    store: Store,
    out: Path,
    *,
    stage: Stage,
    compute: Compute,
    checkpoints: Checkpoints | None,
    execution: str | None,
) -> Checkpoint | None:
    """Train, measure the final weights, write the model directory, log. The checkpoint is the caller's to remove."""
    from lhcnet.inference.predict import loss_and_accuracy
    from lhcnet.models.lhcnet import control_weights
    from lhcnet.runtime import open_device
    from lhcnet.training.health import attention_statistics
    from lhcnet.training.loop import DataSplit, finite, fit

    p, size = info.provenance, info.architecture.input_size
    tags = {"set": p.set, "stage": p.stage, "seed": p.seed, "variant": p.variant or "-"}
    info = info.model_copy(update={"provenance": p.model_copy(update={"training": stage, "compute": compute})})
    with tracked(execution, store.digest, f"train/{p.id}", tags) as run:
        device = open_device(compute)
        if run:
            settings = {"stage": stage, "compute": compute, "network": info.architecture}
            run.params({name: section.to_dict() for name, section in settings.items()} | {"seed": p.seed})
            run.dataset("FER2013", store.digest, str(store.path.absolute()), "training")

        def on_epoch(row: Epoch) -> None:
            shown = f"validation accuracy {row.val_accuracy:.4f}"
            if row.train_loss is not None:
                shown = f"training loss {row.train_loss:.4f}, {shown}"
            log.info("%s epoch %d: %s", p.id, row.epoch, shown)
            if run:
                run.metrics(curve(row), step=row.epoch)

        checkpoint = None if checkpoints is None else _checkpoint(checkpoints, info)
        train_split, validation = DataSplit(*store.split("train")), DataSplit(*store.split("validation"))
        result = fit(
            model,
            train_split,
            validation,
            stage,
            stage_number=p.stage,
            seed=p.seed,
            input_size=size,
            device=device,
            title=p.id,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
        )
        train_loss, train_accuracy = loss_and_accuracy(
            model, train_split.images, train_split.labels, input_size=size, device=device, truncate=True
        )
        best = result.history[result.best_epoch]
        attention = attention_statistics(model, validation.images, input_size=size, device=device)
        dead = [f"{slot} is {word}" for slot, found in attention.items() if (word := found.dead)]
        died = bool(dead) and result.status == "trained"
        metrics = Metrics(
            status="dead" if died else result.status,
            reason=f"attention of {', of '.join(dead)} everywhere" if died else result.reason,
            attention_entropy={slot: found.entropy for slot, found in attention.items()},
            best_epoch=result.best_epoch,
            epochs=len(result.history) - 1,
            train_loss=finite(train_loss),
            train_accuracy=train_accuracy,
            val_loss=best.val_loss,
            val_accuracy=best.val_accuracy,
        )
        save(out, model, info, metrics, result.history)
        if run:
            run.metrics(final(metrics))
            run.tags({"status": metrics.status, "reason": metrics.reason or "-"})
            if info.architecture.control:
                run.metrics({f"w{i}": w for i, w in enumerate(control_weights(model), 1)})
    log.info(
        "%s: %s, best epoch %d, validation accuracy %.4f", p.id, metrics.status, metrics.best_epoch, best.val_accuracy
    )
    return checkpoint


def _checkpoint(checkpoints: Checkpoints, info: ModelInfo) -> Checkpoint:
    """The checkpoint of this training, known by everything that its numbers depend on."""
    import torch

    from lhcnet.training.checkpoint import Checkpoint

    identity = flat(info.to_dict()) | {
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "code": code_digest(),
    }
    return Checkpoint(checkpoints.directory, info.provenance.id, identity, checkpoints.seconds)


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


def _refuse_diverged(start: SavedModel) -> None:
    if start.metrics.status == "diverged":
        raise LhcnetError(f"{start.path}: its training diverged ({start.metrics.reason}); expected a trained network")


def _refuse_other_data(start: SavedModel, store: Store, trainval: Path) -> None:
    if (was := start.info.provenance.data) != store.digest:
        raise LhcnetError(f"{start.path}: was trained on data {was[:12]}, not on {store.digest[:12]} of {trainval}")


def insert_lhc(model: Path, out: Path, *, variant: Variant, set_: SetName, seed: int) -> SavedModel:
    """Put five fresh attention modules (their start drawn from `seed`) into a trained ResNet; nothing is frozen."""
    from lhcnet.models.lhcnet import insert_modules

    saved = open_model(model)
    if saved.info.architecture.modules is not None:
        raise LhcnetError(f"{model}: has attention modules already; expected a plain ResNet34v2")
    _refuse_diverged(saved)
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
