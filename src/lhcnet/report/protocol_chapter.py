"""The chapters on data and protocol: what was done, read from the results, compared with the paper (Tables 2-6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lhcnet.config import TABLE_2, BaselineSettings, Config, LHCSettings, Network, Stage
from lhcnet.data.audit import DataReport
from lhcnet.data.fer2013 import CLASSES, OFFICIAL_COUNTS, SPLITS
from lhcnet.model_record import Architecture
from lhcnet.protocol.results import Results
from lhcnet.report.formatting import MISSING, Table, frame
from lhcnet.report.page import Chapter

SAME = "same"
CHOICES = (
    ("epoch of a stage", "validation", "best accuracy; the start of the stage counts as epoch 0"),
    ("settings of set C", "validation", "best accuracy of the kept models of B"),
    ("kept or rejected", "train", "the 10 % rule: training loss against that of the backbone"),
    ("chosen model, best of A, best LHC-NetC", "validation", "best accuracy; ties: lower loss, then the name"),
    ("temperatures", "validation", "lowest negative log-likelihood; errors of calibration are reported on test"),
    ("thresholds of 80 % and 90 % coverage", "validation", "coverage; accuracy and coverage are reported on test"),
    ("Table 7", "test", "ranks by the test accuracy, as the paper's does: it compares sets and chooses no model"),
    ("all other test figures", "nothing is chosen on test", "test images are read once, by the step evaluate"),
)
VIEWS = (
    "views of TTA",
    "validation",
    "families that lower the negative log-likelihood; accuracy is reported on test",
)
Row = dict[str, object]


def official(data_report: DataReport) -> bool:
    """Whether the splits are FER2013's own, by their counts; only then can results be compared with the paper's."""
    counts = [[data_report.counts[split][name] for name in CLASSES] for split in SPLITS]
    return bool(counts == OFFICIAL_COUNTS.tolist())


def data_chapter(report: DataReport) -> Chapter:
    """The data, from the report that the step prepare wrote."""
    counts = report.counts
    rows = [
        {"split": split} | counts[split] | {"all": sum(counts[split].values()), "mean_grey": report.mean_grey[split]}
        for split in SPLITS
    ]
    found = {
        "images": report.images,
        "distinct images": report.distinct,
        "byte-identical repeats": report.repeats,
        "distinct images in more than one split": report.in_several_splits,
        "distinct images with more than one label": report.with_several_labels,
        **{f"{split} images duplicated in train": n for split, n in sorted(report.train_duplicates.items())},
        **{f"blank images in {split}": report.blank[split] for split in SPLITS},
    }
    texts = [f"Read as {report.shape}; the validation split is {report.validation}."]
    if report.train_duplicates["test"]:
        texts.append(
            "A test image with a byte-identical duplicate in train can be remembered instead of recognised. Therefore "
            "test scores are also given for the images without such a duplicate."
        )
    return Chapter(
        "Data",
        texts,
        [
            Table("Images of each class", "", frame(rows)),
            Table(
                "Repeats and blank images",
                "A blank image has grey values that differ by 3 at most.",
                frame([{"what": what, "number": n} for what, n in found.items()]),
            ),
        ],
    )


def protocol_chapter(results: Results) -> Chapter:
    """What was done, compared with the paper."""
    stages = (
        "Tables 3-6 of the paper: cross-entropy, early stopping on validation accuracy. The flip and the training of "
        "LHC-NetC are only in the paper's code, not in its tables."
    )
    variants = (
        "LHC1 to LHC5 in every variant of set B, and Table 2; the paper does not list the other settings it tried."
    )
    other = "A dash where the paper says nothing. Its text rotates the second TTA views by 0.4 rad, its code by 0.15."
    choices = [*CHOICES, VIEWS] if results.evaluation.settings.views == "helpful" else CHOICES
    chosen_on = [{"what": what, "chosen_on": on, "by": by} for what, on, by in choices]
    return Chapter(
        "Protocol",
        [f"{differing(results)} of the settings below differ from the paper's."],
        [
            Table("Training stages", stages, frame(_stages(results))),
            Table("Settings of the LHC modules", variants, frame(_variants(results))),
            Table("Other settings", other, frame(_settings(results))),
            Table("What was chosen on which split", "No test image took part in a choice.", frame(chosen_on)),
        ],
    )


def differing(results: Results) -> int:
    """How many rows of the protocol differ from the paper. Of the variants only the lack of Table 2 does."""
    rows = [*_stages(results), *_settings(results)]
    lacks_table_2 = not any(row["compared"] == SAME for row in _variants(results))
    return sum(str(row["compared"]).startswith("differs") for row in rows) + lacks_table_2


def _stages(results: Results) -> list[Row]:
    paper, selection = Config(), results.selection
    trained: dict[str, tuple[Stage, Iterable[Stage | None]]] = {
        f"stage {i} (Table {i + 2})": (
            paper.stages[i - 1],
            [model.provenance.training for model in selection.backbone if model.provenance.stage == i],
        )
        for i in (1, 2, 3)
    }
    trained["stage 4 (Table 6)"] = paper.stage4, [entry.record.provenance.training for entry in selection.entries]
    controlled = [one.record.provenance.training for one in results.evaluation.control]
    trained["LHC-NetC"] = paper.control.training, controlled
    rows: list[Row] = []
    for name, (stage, done) in trained.items():
        there = _stage(stage)
        for training in dict.fromkeys(done):
            if training is not None:
                here = _stage(training)
                different = ", ".join(key.replace("_", " ") for key in here if here[key] != there[key])
                compared = f"differs: {different}" if different else SAME
                rows.append({"stage": name, "source": "here"} | here | {"compared": compared})
        flip = {"augmentation": str(there["augmentation"]).replace("flip", "(code: flip)")}
        source = "paper's code" if name == "LHC-NetC" else "paper"
        rows.append({"stage": name, "source": source} | there | flip | {"compared": None})
    return rows


def _stage(stage: Stage) -> Row:
    moves = stage.augmentation.to_dict()
    amounts = ("rotation", "shift", "zoom", "brightness", "contrast")
    drawn = [f"{name} {moves[name]:g}" for name in amounts if moves.get(name)]
    return {
        "optimiser": ", ".join([stage.optimizer, *stage.recipe()]),
        "learning_rate": stage.learning_rate,
        "batch": stage.batch_size,
        "patience": "none" if stage.patience is None else stage.patience,
        "epochs": stage.epochs,
        "augmentation": ", ".join([*drawn, *(["flip"] if moves["flip"] else [])]) or "none",
    }


def _variants(results: Results) -> list[Row]:
    table_2 = _modules(TABLE_2)
    rows: list[Row] = [{"variant": "paper, Table 2"} | table_2 | {"compared": None}]
    for entry in results.selection.entries:
        modules = entry.record.architecture.modules
        if entry.set == "B" and modules is not None:
            here = _modules(modules)
            different = ", ".join(key for key in here if here[key] != table_2[key])
            compared = f"other {different}" if different else SAME
            rows.append({"variant": entry.record.provenance.variant} | here | {"compared": compared})
    return rows


def _modules(modules: Sequence[LHCSettings | BaselineSettings]) -> Row:
    """Settings of the five slots, one value if they are equal; other attention than LHC is named under the heads."""
    columns = {"heads": "heads", "d": "d", "pool": "pool", "g": "g", "kernel": "kernel"}
    columns |= {"split": "split", "norm": "norm", "second_conv": "second convolution"}
    rows = [row.to_dict() if isinstance(row, LHCSettings) else {"heads": row.attention} for row in modules]
    written = {title: [_word(row.get(key)) for row in rows] for key, title in columns.items()}
    return {title: words[0] if len(set(words)) == 1 else " ".join(words) for title, words in written.items()}


def _settings(results: Results) -> list[Row]:
    selection, settings = results.selection, results.evaluation.settings
    paper, first, last = Config(), selection.backbone[0].provenance, selection.start.provenance
    here, there = selection.start.architecture, paper.network
    known: list[tuple[str, object, object]] = [
        ("input size", here.input_size, there.input_size),
        *_sizes(here, there),
        ("dropout", here.dropout, there.dropout),
        ("momentum of BatchNorm", here.bn_momentum, there.bn_momentum),
        ("factor of the loss rule", selection.loss_factor, paper.selection.loss_factor),
    ]
    rows: list[Row] = [_setting(name, ours, theirs, ours == theirs) for name, ours, theirs in known]
    angle = settings.tta_rotation
    as_paper = angle in (0.4, paper.evaluation.tta_rotation)
    rows.append(_setting("second TTA rotation", angle, "0.4 (code: 0.15)", as_paper))
    rows.append(_setting("views of TTA", settings.views, paper.evaluation.views, settings.views == "paper"))
    if first.stage == 1:
        start = "random" if first.start == "none" else f"weights {first.start[:12]}"
        rows.append(_setting(f"start of {first.id}", start, "ImageNet weights", first.start != "none"))
    seeds = {
        f"data seeds of {name}": sorted({e.record.provenance.seed for e in selection.entries if e.set == name})
        for name in "ABC"
    }
    compute = last.compute.to_dict() if last.compute else {}
    silent = {f"data seed of {last.id}": last.seed, **seeds, "TTA for": settings.tta, **compute}
    silent["lhcnet that trained"] = ", ".join(sorted({record.provenance.lhcnet for record in results.records.values()}))
    return rows + [{"setting": name, "here": _word(v), "paper": None, "compared": None} for name, v in silent.items()]


def _sizes(here: Architecture, there: Network) -> list[tuple[str, object, object]]:
    """Sizes of ResNet34v2; of another backbone its name and the layers that its modules follow."""
    if not here.is_lhcnet:
        return [("backbone", here.backbone, there.backbone), ("layers before the modules", here.layers, None)]
    return [(key, getattr(here, key), getattr(there, key)) for key in ("depths", "widths", "head")]


def _setting(name: str, ours: object, theirs: object, same: bool) -> Row:
    return {"setting": name, "here": _word(ours), "paper": _word(theirs), "compared": SAME if same else "differs"}


def _word(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_word, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return MISSING if value is None else f"{value:g}" if isinstance(value, float) else str(value)
