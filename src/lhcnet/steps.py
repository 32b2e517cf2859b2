"""The steps of the pipeline, and the only place where library and tracking meet.

A step is a plain function: paths and frozen settings in, files out, a small result back. DVC calls it through the
command line, Kubeflow through a thin component, a test or notebook directly; the same inputs give the same bytes.
`execution` names the pipeline execution in MLflow; None logs nothing. torch is loaded by the steps that compute.
"""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lhcnet.config import Compute, Data, Evaluation, Network, SetName, Stage, Variant, parse
from lhcnet.data.atomic import complete_or_absent
from lhcnet.data.audit import audit
from lhcnet.data.sources import CLASSES, read
from lhcnet.data.store import open_store, write_stores
from lhcnet.errors import LhcnetError
from lhcnet.evaluation.score import Score, confusion, score
from lhcnet.evaluation.selection import SelectionReport, choose, judge
from lhcnet.evaluation.summary import Evaluated, EvaluationReport, Summary, summarise, write_tables
from lhcnet.models.saved import (
    Architecture,
    Epoch,
    Metrics,
    ModelInfo,
    Provenance,
    Saved,
    open_model,
    read_json,
    save,
    write_json,
)
from lhcnet.tracking.record import curve, final, restore, tracked
from lhcnet.tracking.runs import Execution, child, missing
from lhcnet.tracking.runs import register as register_model

log = logging.getLogger("lhcnet")


def prepare(
    trainval: Path,
    test: Path,
    report: Path,
    *,
    data: Data,
    source: Path | None = None,
    execution: str | None = None,
) -> dict[str, Any]:
    """Raw FER2013 -> the stores `trainval` and `test` (sealed) and the data report (JSON)."""
    source = source or Path(data.source)
    faces = read(source, validation_fraction=data.validation_fraction, seed=data.split_seed)
    findings = audit(faces)
    write_stores(faces, trainval, test)
    digest = open_store(trainval).digest
    result = {"shape": faces.shape, "validation": faces.validation, "digest": digest, **findings}
    report.parent.mkdir(parents=True, exist_ok=True)
    write_json(report, result)
    log.info("%s: %s, %d images, digest %s", source, faces.shape, len(faces.labels), digest[:12])
    with tracked(execution, digest, "prepare") as run:
        if run:
            run.params({"data": data.to_dict() | {"source": str(source)}})
            run.metrics({f"images_{name}": sum(counts.values()) for name, counts in findings["counts"].items()})
            run.dataset("FER2013", digest, str(source.absolute()), "training")
            run.file(report)
    return result


def train(
    trainval: Path,
    out: Path,
    *,
    number: int,
    stage: Stage,
    seed: int,
    compute: Compute,
    network: Network | None = None,
    start: Path | None = None,
    execution: str | None = None,
) -> Saved:
    """One training stage: from `network` (stage 1) or from the model directory `start` (stages 2-4).

    A run that diverges is written like any other, with status `diverged` and its reason: selection rejects it and
    the pipeline goes on.
    """
    from lhcnet.device import open_device
    from lhcnet.evaluation.predict import loss_and_accuracy
    from lhcnet.models.weights import load_start
    from lhcnet.training.fit import Split, finite, fit

    if (number == 1) != (start is None) or (start is None) != (network is not None):
        raise LhcnetError(
            f"stage {number}: expected the settings of a new network in stage 1, a model to start from after"
        )
    store = open_store(trainval)
    if start is None:
        id_, set_, variant = _identify(None, number, seed)
    else:
        begun = open_model(start)
        id_, set_, variant = _identify(begun, number, seed)
        if begun.info.provenance.data != store.digest:
            was = begun.info.provenance.data[:12]
            raise LhcnetError(f"{start}: was trained on data {was}, not on {store.digest[:12]} of {trainval}")
        _refuse_diverged(begun)

    tags = {"set": set_, "stage": number, "seed": seed, "variant": variant or "-"}
    with tracked(execution, store.digest, f"train/{id_}", tags) as run:
        device = open_device(compute)
        if start is None:
            assert network is not None
            architecture = Architecture.of(network)
            model, origin = load_start(network.weights, architecture.build(seed))
        else:
            architecture, model, origin = begun.info.architecture, begun.network(), begun.weights_digest()
        if run:
            settings = {"stage": stage, "compute": compute, "network": architecture}
            run.params({name: section.to_dict() for name, section in settings.items()} | {"seed": seed})
            run.dataset("FER2013", store.digest, str(trainval.absolute()), "training")

        def on_epoch(row: Epoch) -> None:
            shown = f"validation accuracy {row.val_accuracy:.4f}"
            if row.train_loss is not None:
                shown = f"training loss {row.train_loss:.4f}, {shown}"
            log.info("%s epoch %d: %s", id_, row.epoch, shown)
            if run:
                run.metrics(curve(asdict(row)), step=row.epoch)

        train_split, validation = Split(*store.split("train")), Split(*store.split("validation"))
        size = architecture.input_size
        result = fit(
            model,
            train_split,
            validation,
            stage,
            number=number,
            seed=seed,
            input_size=size,
            device=device,
            title=id_,
            on_epoch=on_epoch,
        )
        train_loss, train_accuracy = loss_and_accuracy(
            model, train_split.images, train_split.labels, input_size=size, device=device, truncate=True
        )
        best = result.history[result.best_epoch]
        metrics = Metrics(
            status=result.status,
            reason=result.reason,
            best_epoch=result.best_epoch,
            epochs=len(result.history) - 1,
            train_loss=finite(train_loss),
            train_accuracy=train_accuracy,
            val_loss=best.val_loss,
            val_accuracy=best.val_accuracy,
        )
        provenance = Provenance(
            id=id_, set=set_, stage=number, seed=seed, variant=variant, data=store.digest, start=origin
        )
        save(out, model, ModelInfo(architecture=architecture, provenance=provenance), metrics, result.history)
        if run:
            run.metrics(final(metrics))
            run.tags({"status": metrics.status, "reason": metrics.reason or "-"})
    log.info(
        "%s: %s, best epoch %d, validation accuracy %.4f", id_, metrics.status, metrics.best_epoch, best.val_accuracy
    )
    return open_model(out)


def _identify(start: Saved | None, number: int, seed: int) -> tuple[str, SetName, str | None]:
    """(id, set, variant) of the model that stage `number` makes of `start`."""
    if start is None or number < 4:
        return f"backbone/stage{number}", "backbone", None
    p = start.info.provenance
    if p.variant is None:
        return f"A/seed-{seed}", "A", None
    return f"B/{p.variant}" if p.set == "B" else f"C/{p.variant}/seed-{seed}", p.set, p.variant


def _refuse_diverged(start: Saved) -> None:
    if start.metrics.status == "diverged":
        raise LhcnetError(f"{start.path}: its training diverged ({start.metrics.reason}); expected a trained network")


def insert_lhc(model: Path, out: Path, *, variant: Variant, set_: SetName, seed: int) -> Saved:
    """Put five fresh LHC modules (Glorot start, drawn from `seed`) into a trained ResNet; nothing is frozen."""
    from lhcnet.models.lhcnet import insert_modules

    saved = open_model(model)
    if saved.info.architecture.modules is not None:
        raise LhcnetError(f"{model}: has LHC modules already; expected a plain ResNet34v2")
    _refuse_diverged(saved)
    try:
        network = insert_modules(saved.network(), [m.to_dict() for m in variant.modules], seed)
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
    log.info("%s: five LHC modules inserted (%s, seed %d)", out, variant.name, seed)
    return open_model(out)


def select(
    models: Sequence[Path],
    start: Path,
    out: Path,
    *,
    loss_factor: float,
    chosen: Path | None = None,
    execution: str | None = None,
) -> SelectionReport:
    """The 10 % loss rule over trained models; writes `selection.json` and, where asked for, the chosen model."""
    saved = [open_model(path) for path in models]
    first = open_model(start)
    entries = judge(saved, first, loss_factor)
    for entry in entries:
        log.info("%s %s: %s", "kept" if entry.kept else "rejected", entry.id, entry.reason)
    data, sets = first.info.provenance.data, "".join(sorted({entry.set for entry in entries}))
    with tracked(execution, data, f"select/{sets}") as run:
        if run:
            run.params({"loss_factor": loss_factor})
            restore([first, *saved], Execution(execution or "", data))
            for entry in entries:
                tags = {"kept": entry.kept, "selection": entry.reason}
                with child(Execution(execution or "", data), f"train/{entry.id}", tags=tags, mode="add"):
                    pass
        report = choose(entries, first, loss_factor)
        if chosen is not None:
            by_id = {model.id: model for model in saved}
            with complete_or_absent(chosen, "model.json") as folder:
                shutil.copytree(by_id[report.chosen].path, folder, dirs_exist_ok=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, report.to_dict())
        if run:
            run.tags({"chosen": report.chosen})
            run.file(out)
    return report


def evaluate(
    models: Sequence[Path],
    selection: Path,
    trainval: Path,
    test: Path,
    out: Path,
    *,
    evaluation: Evaluation,
    compute: Compute,
    execution: str | None = None,
) -> EvaluationReport:
    """Score every kept model, plain and with TTA. The only step that receives the sealed test split."""
    from lhcnet.device import open_device
    from lhcnet.evaluation.predict import predict
    from lhcnet.evaluation.tta import plain_views, tta_views

    chosen = parse(SelectionReport, read_json(selection), str(selection))
    kept = {entry.id: entry for entry in chosen.entries if entry.kept}
    saved = {model.id: model for path in models if (model := open_model(path)).id in kept}
    if lost := sorted(set(kept) - set(saved)):
        raise LhcnetError(f"{selection}: names kept models that were not handed in: {', '.join(lost)}")
    splits = {}
    for path, split in ((trainval, "validation"), (test, "test")):
        store = open_store(path)
        if store.digest != chosen.data:
            raise LhcnetError(f"{path}: is of data {store.digest[:12]}, but {selection} of {chosen.data[:12]}")
        splits[split] = store.split(split)
    with_tta = set(kept) if evaluation.tta == "kept" else {chosen.chosen, chosen.best.get("A", chosen.chosen)}

    with tracked(execution, chosen.data, "evaluate") as run:
        device = open_device(compute)
        scored, probabilities = [], {}
        for id_ in sorted(saved):
            network = saved[id_].network().to(device.torch)
            size = saved[id_].info.architecture.input_size
            scores: dict[str, Score] = {}
            for views in (plain_views(), tta_views(evaluation.tta_rotation))[: 2 if id_ in with_tta else 1]:
                for split, (images, labels) in splits.items():
                    p = predict(
                        network, images, views, input_size=size, device=device, batch_size=evaluation.batch_size
                    )
                    name = f"{split}_tta" if len(views) > 1 else split
                    scores[name] = score(p, labels, split=split, views=len(views))
                    probabilities[f"{id_}/{name}"] = p
            shown = ", ".join(f"{name} {s.accuracy:.4f}" for name, s in scores.items())
            log.info("%s: accuracy on %s", id_, shown)
            scored.append(Evaluated(id=id_, set=kept[id_].set, **scores))
        report = EvaluationReport(chosen=chosen.chosen, data=chosen.data, models=tuple(scored))
        labels = splits["test"][1]
        best = probabilities[f"{chosen.chosen}/test"]
        with complete_or_absent(out, "evaluation.json") as folder:
            write_json(folder / "evaluation.json", report.to_dict())
            np.savez(folder / "probabilities.npz", **probabilities)  # type: ignore[arg-type]
            with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["actual", "predicted"])
                writer.writerows((CLASSES[a], CLASSES[b]) for a, b in zip(labels, best.argmax(1), strict=True))
        if run:
            from lhcnet.evaluation import plots  # matplotlib is slow to load

            run.params({"evaluation": evaluation.to_dict()})
            under = Execution(execution or "", chosen.data)
            restore(list(saved.values()), under)
            for evaluated in report.models:
                with child(under, f"train/{evaluated.id}", tags={}, mode="add") as trained:
                    trained.metrics(evaluated.accuracies())
                    if evaluated.id == chosen.chosen:
                        trained.figure(plots.confusion_matrix(confusion(best, labels), CLASSES), "confusion_matrix.png")
    return report


def compare(selection: Path, evaluation: Path, out: Path, *, execution: str | None = None) -> Summary:
    """Table 7 and Table A2 beside the paper's figures, the table of sets, and the metrics digest."""
    chosen = parse(SelectionReport, read_json(selection), str(selection))
    scored = parse(EvaluationReport, read_json(evaluation / "evaluation.json"), str(evaluation / "evaluation.json"))
    if (scored.chosen, scored.data) != (chosen.chosen, chosen.data):
        raise LhcnetError(f"{evaluation}: was made for {scored.chosen}, but {selection} chose {chosen.chosen}")
    summary = summarise(chosen, scored)
    with complete_or_absent(out, "summary.json") as folder:
        write_json(folder / "summary.json", summary.to_dict())
        write_tables(folder, chosen, scored)
    with tracked(execution, chosen.data, "compare") as run:
        if run:
            for file in sorted(out.iterdir()):
                run.file(file)
            parent = run.parent()
            parent.metrics(scored.chosen_model().accuracies())
            parent.tags({"chosen": chosen.chosen, "metrics_digest": summary.metrics_digest})
    return summary


def register(chosen: Path, evaluation: Path, out: Path, *, name: str, execution: str) -> dict[str, Any]:
    """Register the chosen model with the alias `champion`; ends the execution's parent run."""
    saved = open_model(chosen)
    scored = parse(EvaluationReport, read_json(evaluation / "evaluation.json"), str(evaluation / "evaluation.json"))
    if scored.chosen != saved.id:
        raise LhcnetError(f"{chosen}: is {saved.id}, but {evaluation} was made for {scored.chosen}")
    accuracies = scored.chosen_model().accuracies()
    weights = saved.weights_digest()
    tags = {"weights": weights, "data_digest": saved.info.provenance.data, "trained_as": saved.id}
    tags |= {key: f"{value:.4f}" for key, value in accuracies.items()}
    name_ = Execution(execution, saved.info.provenance.data)
    # the run of an earlier time is what a registered version points to: it is added to, never replaced
    with child(name_, "register", tags={}, mode="own" if missing(name_, ["register"]) else "add") as run:
        restore([saved], name_)
        run.metrics(accuracies)
        version = register_model(run, name, chosen, tags=tags)
        run.tags({"registered": f"{name} version {version}"})
        run.parent().metrics(accuracies)
        run.end_parent()
    result = {"name": name, "version": version, "alias": "champion", "weights": weights, "model": saved.id}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, result)
    log.info("registered %s as %s version %d, alias champion", saved.id, name, version)
    return result
