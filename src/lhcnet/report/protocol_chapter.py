"""The chapters on data and protocol: what was done, read off the results, beside what the paper did (Tables 2-6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lhcnet.config import TABLE_2, BaselineSettings, Config, LHCSettings, Stage
from lhcnet.data.fer2013 import CLASSES, OFFICIAL_COUNTS, SPLITS
from lhcnet.protocol.results import EvaluationReport
from lhcnet.protocol.selection import SelectionReport
from lhcnet.report.formatting import Row
from lhcnet.report.page import Chapter

SAME = "as in the paper"
COMPARED = "beside the paper"
CHOICES = (
    ("epoch of a stage", "validation", "best accuracy; the start of the stage counts as epoch 0"),
    ("settings of set C", "validation", "best accuracy of the kept models of B"),
    ("kept or rejected", "train", "the 10 % rule: training loss against that of the backbone"),
    ("chosen model, best of A, best LHC-NetC", "validation", "best accuracy; ties: lower loss, then the name"),
    ("Table 7", "test", "ranks by the test score, as the paper's does: it compares sets and chooses no model"),
    ("all other test figures", "nothing is chosen on test", "test images are read once, by the step evaluate"),
)


def official(data_report: Mapping[str, Any]) -> bool:
    """Whether the splits are FER2013's, by their counts: else the paper's figures are of other images."""
    counts = [[data_report["counts"][split][name] for name in CLASSES] for split in SPLITS]
    return bool(counts == OFFICIAL_COUNTS.tolist())


def data_chapter(report: Mapping[str, Any]) -> Chapter:
    """Of the data report that the step prepare wrote."""
    counts = report["counts"]
    rows: list[Row] = [
        {"split": split}
        | {name: f"{counts[split][name]:,}" for name in CLASSES}
        | {"all": f"{sum(counts[split].values()):,}"}
        for split in SPLITS
    ]
    found = {
        "images": report["images"],
        "distinct images": report["distinct"],
        "byte-identical repeats": report["repeats"],
        "distinct images in more than one split": report["in_several_splits"],
        "distinct images with more than one label": report["with_several_labels"],
        **{f"{split} images with a twin in train": n for split, n in sorted(report["twin_in_train"].items())},
        **{f"blank images in {split}": report["blank"][split] for split in SPLITS},
    }
    like: list[Row] = [{"what": what, "how many": f"{n:,}"} for what, n in found.items()]
    like += [{"what": f"mean grey value of {s}", "how many": f"{report['mean_grey'][s]:.2f}"} for s in SPLITS]
    return Chapter(
        "Data",
        [
            f"Read as {report['shape']}; the validation split is {report['validation']}. A test image with a "
            "byte-identical twin in train can be remembered instead of recognised, so beside every test score stands "
            "the score on the test images that have none.",
        ],
        [
            ("Images", "How many images of each class the splits hold.", rows),
            ("What the images are like", "Counted over all splits; a blank image has grey values within 3.", like),
        ],
    )


def protocol_chapter(selection: SelectionReport, evaluation: EvaluationReport) -> Chapter:
    choices: list[Row] = [{"what": w, "chosen on": on, "by": by} for w, on, by in CHOICES]
    return Chapter(
        "Protocol",
        [
            "What was done, as the trained models tell it. "
            f"{differing(selection, evaluation)} of the settings below differ from the paper's."
        ],
        [
            (
                "Training stages",
                "Tables 3-6 of the paper beside what was done here: cross-entropy, early stopping on validation "
                "accuracy. The flip and the training of LHC-NetC are not in the paper's tables but in its code.",
                _stages(selection, evaluation),
            ),
            (
                "LHC modules",
                "Settings of LHC1 to LHC5 in every variant of set B, beside Table 2; the paper does not list the "
                "others it tried.",
                _variants(selection),
            ),
            (
                "Other settings",
                "A dash where the paper is silent. Its text turns the second TTA views by 0.4 rad, its code by 0.15.",
                _settings(selection, evaluation),
            ),
            ("What was chosen on which split", "No test image took part in a choice.", choices),
        ],
    )


def differing(selection: SelectionReport, evaluation: EvaluationReport) -> int:
    """How many rows of the protocol differ from the paper. Of the variants only the lack of Table 2 does."""
    rows = [*_stages(selection, evaluation), *_settings(selection, evaluation)]
    lacks_table_2 = not any(row[COMPARED] == SAME for row in _variants(selection))
    return sum(row[COMPARED].startswith("differs") for row in rows) + lacks_table_2


def _stages(selection: SelectionReport, evaluation: EvaluationReport) -> list[Row]:
    paper = Config()
    trained: dict[str, tuple[Stage, Iterable[Stage | None]]] = {
        f"stage {i} (Table {i + 2})": (
            paper.stages[i - 1],
            [model.training for model in selection.backbone if model.id.endswith(f"stage{i}")],
        )
        for i in (1, 2, 3)
    }
    trained["stage 4 (Table 6)"] = paper.stage4, [entry.training for entry in selection.entries]
    controlled = [model.control.training for model in evaluation.models if model.control]
    trained["LHC-NetC"] = paper.control.training, controlled
    rows: list[Row] = []
    for name, (stage, done) in trained.items():
        there = _stage(stage)
        for training in dict.fromkeys(done):
            if training is not None:
                here = _stage(training)
                names = ", ".join(key for key in here if here[key] != there[key])
                rows.append(
                    {"stage": name, "where": "here"} | here | {COMPARED: f"differs: {names}" if names else SAME}
                )
        said = there | {"augmentation": there["augmentation"].replace("flip", "(code: flip)")}
        where = "paper's code" if name == "LHC-NetC" else "paper"
        rows.append({"stage": name, "where": where} | said | {COMPARED: "-"})
    return rows


def _stage(stage: Stage) -> dict[str, str]:
    moves = stage.augmentation.to_dict()
    drawn = [f"{name} {moves[name]:g}" for name in ("rotation", "shift", "zoom") if moves[name]]
    return {
        "optimiser": stage.optimizer,
        "learning rate": f"{stage.learning_rate:g}",
        "batch": str(stage.batch_size),
        "patience": str(stage.patience),
        "epochs": str(stage.epochs),
        "augmentation": ", ".join([*drawn, *(["flip"] if moves["flip"] else [])]) or "none",
    }


def _variants(selection: SelectionReport) -> list[Row]:
    table_2 = _modules(TABLE_2)
    rows: list[Row] = [{"variant": "paper, Table 2"} | table_2 | {COMPARED: "-"}]
    for entry in selection.entries:
        if entry.set == "B" and entry.architecture.modules is not None:
            here = _modules(entry.architecture.modules)
            others = ", ".join(key for key in here if here[key] != table_2[key])
            rows.append({"variant": entry.variant or ""} | here | {COMPARED: f"other {others}" if others else SAME})
    return rows


def _modules(modules: Sequence[LHCSettings | BaselineSettings]) -> dict[str, str]:
    """Columns of five words each; what stands for LHC in a place is named under the heads."""
    columns = {"heads": "heads", "d": "dim", "pool": "pool", "g": "scale", "kernel": "kernel"}
    columns |= {"split": "cut", "norm": "norm", "second_conv": "second convolution"}
    rows = [row.to_dict() if isinstance(row, LHCSettings) else {"heads": row.attention} for row in modules]
    written = {title: [_word(row.get(key)) for row in rows] for key, title in columns.items()}
    return {title: words[0] if len(set(words)) == 1 else " ".join(words) for title, words in written.items()}


def _settings(selection: SelectionReport, evaluation: EvaluationReport) -> list[Row]:
    paper, first, last = Config(), selection.backbone[0], selection.backbone[-1]
    here, there = last.architecture, paper.network
    start = "random" if first.start == "none" else f"weights {first.start[:12]}"
    compute = last.compute.to_dict() if last.compute else {}
    known: list[tuple[str, object, object]] = [
        ("input size", here.input_size, there.input_size),
        ("depths", here.depths, there.depths),
        ("widths", here.widths, there.widths),
        ("head", here.head, there.head),
        ("dropout", here.dropout, there.dropout),
        ("momentum of BatchNorm", here.bn_momentum, there.bn_momentum),
        ("loss rule", selection.loss_factor, paper.selection.loss_factor),
    ]
    rows: list[Row] = [
        {
            "setting": name,
            "here": _words(ours),
            "paper": _words(theirs),
            COMPARED: SAME if ours == theirs else "differs",
        }
        for name, ours, theirs in known
    ]
    angle = evaluation.settings.tta_rotation
    as_paper = SAME if angle in (0.4, paper.evaluation.tta_rotation) else "differs"
    rows.append(
        {"setting": "second TTA rotation", "here": _word(angle), "paper": "0.4 (code: 0.15)", COMPARED: as_paper}
    )
    if first.id.endswith("stage1"):
        as_paper = SAME if first.start != "none" else "differs"
        rows.append({"setting": f"start of {first.id}", "here": start, "paper": "ImageNet weights", COMPARED: as_paper})
    seeds = {f"data seeds of {name}": sorted({e.seed for e in selection.entries if e.set == name}) for name in "ABC"}
    silent = {f"data seed of {last.id}": last.seed, **seeds, "TTA for": evaluation.settings.tta, **compute}
    return rows + [{"setting": name, "here": _words(v), "paper": "-", COMPARED: "-"} for name, v in silent.items()]


def _words(value: object) -> str:
    return " ".join(map(_word, value)) if isinstance(value, list | tuple) else _word(value)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
