"""The tables of an analysis, made from its saved report: (title, note, rows)."""

from __future__ import annotations

from pathlib import Path

from lhcnet.analysis import appendix_b
from lhcnet.analysis import parameter_counts as sizes
from lhcnet.analysis.necessity import (
    PAPER_HEADS,
    PAPER_MODULES,
    PAPER_OF,
    Compared,
    Kept,
    Needed,
    plan,
)
from lhcnet.analysis.results import QUANTILES, AnalysisReport, read
from lhcnet.protocol.statistics import ALPHA

PAPER_CORRELATION, PAPER_TRANSFORMER = 0.63, 0.93

Table = tuple[str, str, list[dict[str, str]]]


def tables(folder: Path) -> list[Table]:
    """All tables of a folder that `report.write` wrote."""
    return list(named_tables(read(folder).report).values())


def named_tables(report: AnalysisReport) -> dict[str, Table]:
    """File name to table."""
    noise = comparison_note(report)
    return {
        "needed": ("Heads and modules needed", f"{_NEEDED} {noise}", _needed(report)),
        "modules": ("Modules switched off or set back to their initial weights", noise, _modules(report)),
        "heads": ("Heads switched off or set back to their initial weights", f"{_SINGLE} {noise}", _heads(report)),
        "kept": ("Only the first heads kept", f"{_KEPT} {noise}", _kept(report)),
        "correlation": ("Correlation between heads", _CORRELATION, _correlation(report)),
        "scaling": ("Learnt scaling and spread of attention", _SCALING, _scaling(report)),
        "sizes": ("Parameters and attention share of Table A2", _SIZES, sizes.table(report.sizes)),
        "appendix_b": ("Appendix B: efficiency of local heads over a global one", _APPENDIX_B, appendix_b.table()),
    }


def comparison_note(report: AnalysisReport) -> str:
    """How to read a verdict: on what, by which test, and how many verdicts chance alone would bring."""
    low, high = report.necessity.full.ci95
    tests = len(plan(report.necessity.heads))
    return (
        f"{report.model} on {report.n} validation images; the full network is at "
        f"{100 * report.necessity.full.accuracy:.2f} % (95 % interval {100 * low:.2f}-{100 * high:.2f}), one image is "
        f"{100 / report.n:.3f} points. Verdicts are McNemar's exact test against the full network on the same images: "
        f"within noise means p of at least {ALPHA}. Of the {tests} comparisons about "
        f"{ALPHA * tests:.0f} would seem to differ by chance alone; with fewer images more is within noise."
    )


_SINGLE = "A head that is set back has its own w1 and b1 at the start; a module's only head takes the rest with it."
_KEPT = (
    "Counted from the input of the network; a module that keeps none of its heads is off, or at its initial weights "
    "altogether."
)
_NEEDED = (
    "The smallest number from which on no number is worse than the full network beyond noise. The paper says neither "
    "how many images nor which difference it took for one."
)
_CORRELATION = (
    "Pearson's coefficient of the outputs A of two heads, over images, channels and the pixels of a slice. The paper "
    f"gives {100 * PAPER_CORRELATION:.0f} % for LHC-Net and up to {100 * PAPER_TRANSFORMER:.0f} % for a Transformer "
    "encoder, without a formula: `up to` is the largest of the pairs."
)
_SCALING = (
    "Quantiles of T over images and channels; the scores are divided by d^(g+T). Entropy of the attention of one "
    "channel: 0 looks at one channel, 1 at all alike; that of the mean map is the same number where attention does "
    "not depend on the image."
)
_SIZES = (
    "Parameters in millions as Keras counts them, with BatchNorm's moving statistics; attention is the share of the "
    "attention modules, in per cent. The paper's shares of SE-Net50 and RM-Net are the growth over a ResNet without "
    "them, from its own column: (27 - 25.6) / 27 and (142.9 - 27.6) / 142.9. Its 27.6 M for other authors' ResNet34 "
    "is the size with this paper's dense head. BAMRN50, RM-Net and the unnamed CNN are not built here."
)
_APPENDIX_B = (
    "H = W = 56, d = 196, n = 8 heads, as in LHC1 and LHC2. By L1 the global head is favoured if A < 7/27 B (the paper "
    "rounds to 0.26): with no empty slice (C = 0) for A = 0, B = 8 and A = 1, B = 7 only, as the paper says; with "
    "empty slices also for A = 0 and any B, and for A = 1 and B = 4, 5, 6."
)


def _needed(report: AnalysisReport) -> list[dict[str, str]]:
    heads = report.necessity.heads
    rows = [_needed_row(report, found) for found in report.necessity.needed]
    paper = {"heads": f"{PAPER_HEADS} of {PAPER_OF}", "modules": f"{PAPER_MODULES} of {len(heads)}"}
    return [*rows, {"source": "paper", "way": "off or reset", **paper, "accuracy with them": "-", "verdict": "-"}]


def _needed_row(report: AnalysisReport, found: Needed) -> dict[str, str]:
    heads = report.necessity.heads
    at = next(k for k in report.necessity.kept if (k.way, k.heads) == (found.way, found.heads))
    return {
        "source": "here",
        "way": found.way,
        "heads": f"{found.heads} of {sum(heads)}",
        "modules": f"{found.modules} of {len(heads)}",
        "accuracy with them": f"{100 * at.score.accuracy:.2f}",
        "verdict": at.verdict,
    }


def _modules(report: AnalysisReport) -> list[dict[str, str]]:
    heads = dict(zip((m.place for m in report.modules), report.necessity.heads, strict=True))
    parts = report.necessity.modules
    return [{"module": x.place, "heads": str(heads[x.place])} | _compared(report, x) for x in parts]


def _heads(report: AnalysisReport) -> list[dict[str, str]]:
    return [{"module": x.place, "head": str(x.head)} | _compared(report, x) for x in report.necessity.single]


def _kept(report: AnalysisReport) -> list[dict[str, str]]:
    return [_kept_row(x) | _compared(report, x) for x in report.necessity.kept]


def _kept_row(x: Kept) -> dict[str, str]:
    return {"heads": str(x.heads), "modules": "-" if x.modules is None else str(x.modules)}


def _compared(report: AnalysisReport, x: Compared) -> dict[str, str]:
    return {
        "way": x.way,
        "accuracy": f"{100 * x.score.accuracy:.2f}",
        "ci95": f"{100 * x.score.ci95[0]:.2f}-{100 * x.score.ci95[1]:.2f}",
        "change": f"{100 * (x.score.accuracy - report.necessity.full.accuracy):+.2f}",
        "lost": str(x.lost),
        "won": str(x.won),
        "p": f"{x.p:.3g}",
        "verdict": x.verdict,
    }


def _correlation(report: AnalysisReport) -> list[dict[str, str]]:
    rows = [
        {
            "module": module.place,
            "heads": str(len(module.heads)),
            "mean": "-" if module.correlation_mean is None else f"{module.correlation_mean:.3f}",
            "largest": "-" if module.correlation_max is None else f"{module.correlation_max:.3f}",
        }
        for module in report.modules
    ]
    paper = {"LHC-Net, paper": (f"{PAPER_CORRELATION}", "-"), "Transformer, paper": ("-", f"{PAPER_TRANSFORMER}")}
    return [
        *rows,
        *({"module": k, "heads": "-", "mean": mean, "largest": largest} for k, (mean, largest) in paper.items()),
    ]


def _scaling(report: AnalysisReport) -> list[dict[str, str]]:
    return [
        {"module": module.place, "head": str(head.head)}
        | {f"T {100 * q:g} %": f"{value:.3f}" for q, value in zip(QUANTILES, head.scaling, strict=True)}
        | {"T mean": f"{head.scaling_mean:.3f}", "g + T mean": f"{module.g + head.scaling_mean:.3f}"}
        | {"entropy": f"{head.entropy:.3f}", "entropy of the mean map": f"{head.entropy_of_mean:.3f}"}
        for module in report.modules
        for head in module.heads
    ]
