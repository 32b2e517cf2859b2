from kfp import dsl

from components import component


@component
def compare(
    selection: dsl.Input[dsl.Artifact],
    scores: dsl.Input[dsl.Artifact],
    report: dsl.Output[dsl.Artifact],
    tables: dsl.Output[dsl.Markdown],
) -> str:
    """Table 7 and Table A2 beside the paper's. Returns the digest of all metrics."""
    import os
    from pathlib import Path

    from lhcnet import steps

    summary = steps.compare(
        Path(selection.path), Path(scores.path), Path(report.path), execution=os.environ["LHCNET_EXECUTION"]
    )
    Path(tables.path).write_text((Path(report.path) / "report.md").read_text(encoding="utf-8"), encoding="utf-8")
    return summary.metrics_digest
