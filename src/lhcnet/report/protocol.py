"""The chapters on data and protocol: what was done, beside what the paper did (Tables 2-6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lhcnet.config import TABLE_2, Config
from lhcnet.data.sources import CLASSES, OFFICIAL_COUNTS, SPLITS
from lhcnet.evaluation.cells import Row
from lhcnet.report.page import Chapter

STAGES = {
    "stage 1 (Table 3)": ("stage1",),
    "stage 2 (Table 4)": ("stage2",),
    "stage 3 (Table 5)": ("stage3",),
    "stage 4 (Table 6)": ("stage4",),
    "LHC-NetC": ("control", "training"),
}
SETTINGS: Mapping[str, tuple[str, ...]] = {  # what the paper says (text, or text and code); empty where it is silent
    "network.input_size": ("224",),
    "network.depths": ("3 4 6 3",),
    "network.widths": ("64 128 256 512",),
    "network.head": ("4096 1024",),
    "network.dropout": ("0.4",),
    "network.bn_momentum": ("0.01",),
    "network.weights": ("ImageNet",),
    "compute.device": (),
    "compute.precision": (),
    "selection.loss_factor": ("1.1",),
    "control.models": (),
    "evaluation.tta": (),
    "evaluation.tta_rotation": ("0.4", "0.15"),
    "seeds.backbone": (),
    "seeds.a": (),
    "seeds.b": (),
    "seeds.c": (),
}
SAME = "as in the paper"
CHOICES = (
    ("epoch of a stage", "validation", "best accuracy; the start of the stage counts as epoch 0"),
    ("settings of set C", "validation", "best accuracy of the kept models of B"),
    ("kept or rejected", "train", "the 10 % rule: training loss against that of the backbone"),
    ("chosen LHC-Net, best of A, best LHC-NetC", "validation", "best accuracy; ties: lower loss, then the name"),
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
    twins = report["twin_in_train"]
    found: list[Row] = [
        {"what": "images", "how many": f"{report['images']:,}"},
        {"what": "distinct images", "how many": f"{report['distinct']:,}"},
        {"what": "byte-identical repeats", "how many": f"{report['repeats']:,}"},
        {"what": "distinct images in more than one split", "how many": f"{report['in_several_splits']:,}"},
        {"what": "distinct images with more than one label", "how many": f"{report['with_several_labels']:,}"},
    ]
    found += [{"what": f"{s} images with a twin in train", "how many": f"{n:,}"} for s, n in sorted(twins.items())]
    found += [{"what": f"blank images in {s}", "how many": f"{report['blank'][s]:,}"} for s in SPLITS]
    found += [{"what": f"mean grey value of {s}", "how many": f"{report['mean_grey'][s]:.2f}"} for s in SPLITS]
    return Chapter(
        "Data",
        [
            f"Read as {report['shape']}; the validation split is {report['validation']}. A test image with a "
            "byte-identical twin in train can be remembered instead of recognised, so beside every test score stands "
            "the score on the test images that have none.",
        ],
        [
            ("Images", "How many images of each class the splits hold.", rows),
            ("What the images are like", "Counted over all splits; a blank image has grey values within 3.", found),
        ],
    )


def protocol_chapter(config: Mapping[str, Any]) -> Chapter:
    stages, settings, variants = _stages(config), _settings(config), _variants(config)
    choices: list[Row] = [{"what": w, "chosen on": on, "by": by} for w, on, by in CHOICES]
    return Chapter(
        "Protocol",
        [f"Profile {config['profile']}. {differing(config)} of the settings below differ from the paper's."],
        [
            (
                "Training stages",
                "Tables 3-6 of the paper beside what was done here: cross-entropy, early stopping on validation "
                "accuracy. The flip and the training of LHC-NetC are not in the paper's tables but in its code.",
                stages,
            ),
            (
                "LHC modules",
                "Settings of LHC1 to LHC5 in every variant of set B, beside Table 2; the paper does not list the "
                "others it tried.",
                variants,
            ),
            (
                "Other settings",
                "A dash where the paper is silent. Its text turns the second TTA views by 0.4 rad, its code by 0.15.",
                settings,
            ),
            ("What was chosen on which split", "No test image took part in a choice.", choices),
        ],
    )


def differing(config: Mapping[str, Any]) -> int:
    """How many rows of the protocol differ from the paper. Of the variants only the lack of Table 2 does."""
    rows = [*_stages(config), *_settings(config)]
    lacks_table_2 = not any(row["beside the paper"] == SAME for row in _variants(config))
    return sum(row["beside the paper"].startswith("differs") for row in rows) + lacks_table_2


def _stages(config: Mapping[str, Any]) -> list[Row]:
    paper, rows = Config().to_dict(), list[Row]()
    for name, path in STAGES.items():
        here, there = (_stage(_at(values, path)) for values in (config, paper))
        names = ", ".join(key for key in here if here[key] != there[key])
        there["augmentation"] = there["augmentation"].replace("flip", "(code: flip)")
        rows.append({"stage": name, "where": "here"} | here | {"beside the paper": _differing(names)})
        rows.append(
            {"stage": name, "where": "paper" if len(path) == 1 else "paper's code"} | there | {"beside the paper": "-"}
        )
    return rows


def _stage(stage: Mapping[str, Any]) -> dict[str, str]:
    moves = stage["augmentation"]
    drawn = [f"{name} {moves[name]:g}" for name in ("rotation", "shift", "zoom") if moves[name]]
    return {
        "optimiser": stage["optimizer"],
        "learning rate": f"{stage['learning_rate']:g}",
        "batch": str(stage["batch_size"]),
        "patience": str(stage["patience"]),
        "epochs": str(stage["epochs"]),
        "augmentation": ", ".join([*drawn, *(["flip"] if moves["flip"] else [])]) or "none",
    }


def _variants(config: Mapping[str, Any]) -> list[Row]:
    table_2 = _modules([module.to_dict() for module in TABLE_2])
    rows: list[Row] = [{"variant": "paper, Table 2"} | table_2 | {"beside the paper": "-"}]
    for name, modules in config["variants"].items():
        here = _modules(modules)
        others = ", ".join(key for key in here if here[key] != table_2[key])
        rows.append({"variant": name} | here | {"beside the paper": f"other {others}" if others else SAME})
    return rows


def _modules(modules: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    columns = {"heads": "heads", "d": "dim", "pool": "pool", "g": "scale", "kernel": "kernel"}
    return {title: " ".join(f"{module[key]:g}" for module in modules) for key, title in columns.items()}


def _settings(config: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, paper in SETTINGS.items():
        value = _at(config, name.split("."))
        here = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        same = here != "none" if name == "network.weights" else not paper or here in paper
        verdict = (SAME if same else "differs") if paper else "-"
        rows.append({"setting": name, "here": here, "paper": " or ".join(paper) or "-", "beside the paper": verdict})
    return rows


def _differing(names: str) -> str:
    return f"differs: {names}" if names else SAME


def _at(values: Mapping[str, Any], path: Sequence[str]) -> Any:
    for key in path:
        values = values[key]
    return values
