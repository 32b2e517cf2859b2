"""The tables of an analysis, from its saved results."""

from __future__ import annotations

from lhcnet.analysis import appendix_b
from lhcnet.analysis.necessity import Ablated, plan
from lhcnet.analysis.parameter_counts import Size
from lhcnet.analysis.results import QUANTILES, AnalysisReport
from lhcnet.protocol import paper
from lhcnet.protocol.statistics import ALPHA
from lhcnet.report.formatting import Table, frame, interval, percent, score_columns


def analysis_tables(report: AnalysisReport) -> dict[str, Table]:
    """Every table by the name of its CSV file."""
    return {
        "needed": needed_table(report),
        "modules": modules_table(report),
        "heads": heads_table(report),
        "kept_heads": kept_heads_table(report),
        "correlation": correlation_table(report),
        "scaling": scaling_table(report),
        "parameters": parameters_table(report.sizes),
        "appendix_b": appendix_b_table(),
    }


def how_compared(report: AnalysisReport) -> str:
    """The data and the test of all ablations."""
    full, tests = report.necessity.full, len(plan(report.necessity.heads))
    return (
        f"{report.model} on {report.n:,} validation images: the test images are not used here. The full network has "
        f"{percent(full.accuracy)} % (95 % CI {interval(full.ci95)}); one image is {100 / report.n:.3f} points. Each "
        "ablated network is compared with the full one on the same images by McNemar's exact test (alpha = "
        f"{ALPHA:g}); {ALPHA * tests:.0f} of the {tests} comparisons can be expected to be significant by chance alone."
    )


def needed_table(report: AnalysisReport) -> Table:
    """The numbers of heads and modules that the network needs."""
    necessity = report.necessity
    rows: list[dict[str, object]] = []
    for found in necessity.needed:
        at = next(k for k in necessity.kept if (k.kind, k.heads) == (found.kind, found.heads))
        rows.append(
            {
                "source": "here",
                "ablation": found.kind,
                "heads_needed": found.heads,
                "heads": sum(necessity.heads),
                "modules_needed": found.modules,
                "modules": len(necessity.heads),
                "accuracy": at.score.accuracy,
            }
        )
    rows.append(
        {
            "source": "paper",
            "ablation": "off or reset",
            "heads_needed": paper.HEADS_NEEDED,
            "heads": paper.HEADS,
            "modules_needed": paper.MODULES_NEEDED,
            "modules": 5,
        }
    )
    note = (
        "The smallest number from which on no network is significantly worse than the full one, and the accuracy with "
        "so many heads. The paper gives neither the number of images nor the size of a difference that counts."
    )
    return Table("Heads and modules needed", note, frame(rows))


def modules_table(report: AnalysisReport) -> Table:
    """Ablation of each module."""
    heads = dict(zip((m.slot for m in report.modules), report.necessity.heads, strict=True))
    rows = [{"module": x.slot, "heads": heads[x.slot]} | _ablated(report, x) for x in report.necessity.modules]
    return Table("One module off or reset", _KINDS, frame(rows))


def heads_table(report: AnalysisReport) -> Table:
    """Ablation of each head."""
    rows = [{"module": x.slot, "head": x.head} | _ablated(report, x) for x in report.necessity.single]
    note = "A head that is reset has its initial w1 and b1; the only head of a module also the other weights."
    return Table("One head off or reset", note, frame(rows))


def kept_heads_table(report: AnalysisReport) -> Table:
    """Ablation of all heads after the first ones."""
    rows = [{"heads": x.heads, "modules": x.modules} | _ablated(report, x) for x in report.necessity.kept]
    note = "Heads are counted from the input of the network; a module without any head left is off or reset as a whole."
    return Table("Only the first heads kept", note, frame(rows))


_KINDS = "off: the module adds nothing. reset: it has its initial weights again (in the paper: de-trained)."


def _ablated(report: AnalysisReport, x: Ablated) -> dict[str, object]:
    return {
        "ablation": x.kind,
        **score_columns(x.score, "accuracy"),
        "difference": x.score.accuracy - report.necessity.full.accuracy,
        "lost": x.lost,
        "won": x.won,
        "p": x.p,
        "significant": x.significant,
    }


def correlation_table(report: AnalysisReport) -> Table:
    """Correlation of the heads of each module."""
    rows: list[dict[str, object]] = [
        {
            "module": module.slot,
            "heads": len(module.heads),
            "correlation": module.correlation_mean,
            "correlation_max": module.correlation_max,
        }
        for module in report.modules
    ]
    rows.append({"module": "LHC-Net, paper", "correlation": paper.CORRELATION})
    rows.append({"module": "Transformer, paper", "correlation_max": paper.CORRELATION_TRANSFORMER})
    note = (
        "Pearson's coefficient of the outputs A of two heads, over images, channels and the pixels of a slice. The "
        f"paper gives {paper.CORRELATION} for LHC-Net and up to {paper.CORRELATION_TRANSFORMER} for a "
        "Transformer encoder, without a formula."
    )
    return Table("Correlation between heads", note, frame(rows))


def scaling_table(report: AnalysisReport) -> Table:
    """Learnt scaling T and entropy of the attention of each head."""
    rows = [
        {"module": module.slot, "head": head.head}
        | {f"T_{100 * q:02.0f}": value for q, value in zip(QUANTILES, head.scaling, strict=True)}
        | {"T_mean": head.scaling_mean, "exponent": module.g + head.scaling_mean}
        | {"entropy": head.entropy, "entropy_of_mean": head.entropy_of_mean}
        for module in report.modules
        for head in module.heads
    ]
    note = (
        "Quantiles of T over images and channels; scores are divided by d^(g+T). Entropy of the attention of a "
        "channel: 0 if it attends to one channel, 1 if to all equally. The entropy of the mean map equals it if "
        "attention does not depend on the image."
    )
    return Table("Learnt scaling and entropy of attention", note, frame(rows))


def parameters_table(sizes: tuple[Size, ...]) -> Table:
    """The columns Params and Att of Table A2, of the paper and as counted here."""
    rows = [
        {
            "network": size.model,
            "paper_params": size.paper_params,
            "params": size.params / 1e6,
            "paper_attention": size.paper_share,
            "attention": size.share if size.attention else None,
            "counted": size.counted,
        }
        for size in sizes
    ]
    note = (
        "Parameters as Keras counts them, with the moving statistics of BatchNorm; attention is the share of the "
        "attention modules. The paper's shares of SE-Net50 and RM-Net are the growth over a ResNet without them."
    )
    return Table("Parameters and attention share of Table A2", note, frame(rows))


def appendix_b_table() -> Table:
    """Both measures of Appendix B for every combination of slices."""
    H, W, d, n = appendix_b.H, appendix_b.W, appendix_b.D, appendix_b.N
    g1, g2 = appendix_b.G1(H, W, d), appendix_b.G2()
    rows = []
    for A, B, C in appendix_b.combinations(n):
        l1, l2 = appendix_b.L1(H, W, d, n, A, B, C), appendix_b.L2(n, A, B, C)
        by_l1, by_l2 = "local" if l1 > g1 else "global", "local" if A > 0 else "equal"
        measures = {"L1": l1, "G1": g1, "by_L1": by_l1, "L2": l2, "G2": g2, "by_L2": by_l2}
        rows.append({"A": A, "B": B, "C": C} | measures)
    note = (
        f"H = W = {H}, d = {d}, n = {n} heads, as in LHC1 and LHC2. By L1 the global head is favoured if A < 7/27 B "
        "(the paper rounds to 0.26): with C = 0 for A = 0, B = 8 and A = 1, B = 7 only, as the paper says; with C > 0 "
        "also for A = 0 and any B, and for A = 1 and B = 4, 5, 6."
    )
    return Table("Appendix B: local heads and a global one", note, frame(rows))
