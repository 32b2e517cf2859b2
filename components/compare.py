from kfp import dsl

from components import component


@component
def compare(
    selection: dsl.Input[dsl.Artifact],
    scores: dsl.Input[dsl.Artifact],
    analysis: dsl.Input[dsl.Artifact],
    data_report: dsl.Input[dsl.Artifact],
    report: dsl.Output[dsl.Artifact],
    tables: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
) -> str:
    """Statistics, Table 7 and Table A2 beside the paper's, and the report. Returns the digest of all metrics."""
    import os
    import shutil
    from pathlib import Path

    from lhcnet import steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    out = Path(report.path)
    summary = steps.compare(
        Path(selection.path),
        Path(scores.path),
        out,
        data_report=Path(data_report.path),
        analysis=Path(analysis.path),
        execution=os.environ["LHCNET_EXECUTION"],
    )
    shutil.copyfile(out / "report.md", tables.path)
    shutil.copyfile(out / "report.html", page.path)
    return summary.metrics_digest
