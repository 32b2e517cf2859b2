"""Train one network, measure its final weights and save it. All training steps share this code."""

from __future__ import annotations

import logging
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from lhcnet.code_version import code_digest
from lhcnet.config import Checkpoints, Stage
from lhcnet.data.store import Store
from lhcnet.estimate import gib, span, training_memory
from lhcnet.io.preflight import output_directory, shared_folder
from lhcnet.io.yaml import flat
from lhcnet.runtime import log_precision, memory_errors
from lhcnet.saved import MODEL_FOLDER, Epoch, Metrics, ModelInfo, SavedModel, open_model, save
from lhcnet.steps.context import RunContext
from lhcnet.tracking.names import curve, data_set_name, kept_metrics, training_params
from lhcnet.tracking.record import tracked

if TYPE_CHECKING:
    from lhcnet.models.slots import SlotNetwork
    from lhcnet.training.checkpoint import Checkpoint
    from lhcnet.training.forecast import Forecast
    from lhcnet.training.speed import Trial
log = logging.getLogger("lhcnet")


def fit_model(
    model: SlotNetwork, info: ModelInfo, store: Store, out: Path, *, stage: Stage, context: RunContext
) -> Checkpoint | None:
    """Train a network, measure its final weights, write the model directory and record the run.

    Args:
        model: the network, trained in place; the best weights on validation are kept.
        info: architecture and provenance; the settings of the training are added.
        store: the splits train and validation.
        out: model directory to write.
        stage: settings of the training.
        context: device, checkpoints and execution.

    Returns:
        The checkpoint of this training, or None without checkpoints. The caller removes it when `out` is in place.

    Raises:
        Preempted: SIGTERM came; the checkpoint is written.
        LhcnetError: there is not enough memory, or no room for the model or its checkpoint.
    """
    import torch

    from lhcnet.inference.predict import loss_and_accuracy
    from lhcnet.models.lhcnet import control_weights, count_parameters
    from lhcnet.training.forecast import Forecast
    from lhcnet.training.health import attention_statistics
    from lhcnet.training.loop import DataSplit, batch_slices, finite, fit
    from lhcnet.training.speed import try_batches

    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    output_directory(out, MODEL_FOLDER, weights)
    if context.checkpoints is not None:
        shared_folder(context.checkpoints.directory, (3 + stage.more_copies) * weights)  # weights, best, optimiser
    p, size = info.provenance, info.architecture.input_size
    info = with_settings(info, stage, context)
    settings_of = "control.training" if info.architecture.control else f"stage{p.stage}"
    with tracked(context.execution, store.digest, f"train/{p.id}") as run, memory_errors(settings_of):
        device = context.device()
        log_precision(device)
        if run:
            run.params(training_params(info))
            name = store.data_set or data_set_name(store.images, store.labels)
            run.dataset(name, store.digest, str(store.path.absolute()), "training")

        checkpoint = None if context.checkpoints is None else _checkpoint(context.checkpoints, info)
        if checkpoint:
            checkpoint.require_writable()
        train_split = DataSplit(*store.split("train"), targets=store.targets("train"))
        validation = DataSplit(*store.split("validation"))
        batches = batch_slices(len(train_split.labels), stage.batch_size)
        needed: object = f"{count_parameters(model):,} parameters"
        if sizes := info.architecture.sizes:
            needed = training_memory(
                sizes,
                batch_size=batches[0].stop,
                adam=stage.optimizer == "adam",
                bfloat16=context.compute.precision == "bfloat16",
                more_copies=stage.more_copies,
            )
        n, of_validation, threads = len(train_split.labels), len(validation.labels), torch.get_num_threads()
        log.info(
            "%s: %s; %d training and %d validation images, %d batches an epoch, %d threads, %s",
            *(p.id, needed, n, of_validation, len(batches), threads, context.compute.precision),
        )
        trial = try_batches(model, train_split, stage, validation=of_validation, input_size=size, device=device)
        forecast = Forecast(stage, size, trial.seconds)
        log.info("%s: %s", p.id, _expected(trial, forecast, stage))
        if run:
            run.params({"network.parameters": count_parameters(model), "images.train": n})
            run.params({"images.validation": of_validation, "compute.threads_used": threads})  # the setting may be 0

        def on_epoch(row: Epoch) -> None:
            shown = f"validation accuracy {row.val_accuracy:.4f}"
            if row.train_loss is not None:
                shown = f"training loss {row.train_loss:.4f}, {shown}"
            if row.epoch < stage.epochs:
                shown = f"{shown}, {forecast.in_words(row.epoch)}"
            log.info("%s epoch %d of %d: %s", p.id, row.epoch, stage.epochs, shown)
            if run:
                run.metrics(curve(row), step=row.epoch)

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
            forecast=forecast,
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
            attention_entropy={slot: found.entropy for slot, found in attention.items() if isfinite(found.entropy)},
            best_epoch=result.best_epoch,
            epochs=len(result.history) - 1,
            train_loss=finite(train_loss),
            train_accuracy=train_accuracy,
            val_loss=best.val_loss,
            val_accuracy=best.val_accuracy,
        )
        save(out, model, info, metrics, result.history)
        if run:
            run.metrics(kept_metrics(metrics))
            run.tags({"status": metrics.status} | ({"reason": metrics.reason} if metrics.reason else {}))
            run.tags(
                {"weights": open_model(out).info.weights}
            )  # by it a run that takes the model from a cache finds this
            if info.architecture.control:
                run.metrics({f"control/w{i}": w for i, w in enumerate(control_weights(model), 1)})
    log.info(
        "%s: %s, best epoch %d, validation accuracy %.4f", p.id, metrics.status, metrics.best_epoch, best.val_accuracy
    )
    return checkpoint


def _expected(trial: Trial, forecast: Forecast, stage: Stage) -> str:
    """Expected time and memory of a training, for people."""
    epochs = ", ".join(
        f"{span(seconds)} an epoch{f' at {size} px' if stage.sizes else ''}" for size, seconds in trial.seconds.items()
    )
    most = "at most " if stage.patience is not None else ""
    return f"about {epochs}, {most}{span(forecast.total)} for all {stage.epochs}, {gib(trial.memory)} of memory"


def with_settings(info: ModelInfo, stage: Stage, context: RunContext) -> ModelInfo:
    """`info` with the settings of its training."""
    settings = {"training": stage, "compute": context.compute}
    return info.model_copy(update={"provenance": info.provenance.model_copy(update=settings)})


def finish(checkpoint: Checkpoint | None, out: Path) -> SavedModel:
    """Remove the checkpoint of a training whose model is in place at `out`, and open the model."""
    if checkpoint:
        checkpoint.remove()
    return open_model(out)


def _checkpoint(checkpoints: Checkpoints, info: ModelInfo) -> Checkpoint:
    """The checkpoint of this training, identified by everything that its numbers depend on."""
    import torch

    from lhcnet.training.checkpoint import Checkpoint

    identity = flat(info.to_dict()) | {
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "code": code_digest("steps.fit_model"),
    }
    return Checkpoint(checkpoints.directory, info.provenance.id, identity, checkpoints.seconds)
