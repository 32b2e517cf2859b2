from kfp import dsl

from components import component


@component
def compare(
    selection: dsl.Input[dsl.Artifact],
    scores: dsl.Input[dsl.Artifact],
    analysis: dsl.Input[dsl.Artifact],
    data_report: dsl.Input[dsl.Artifact],
    code: str,
    report: dsl.Output[dsl.Artifact],
    tables: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
) -> str:
    """Compare the execution with the paper: statistics, Tables 7 and A2, report.

    Args:
        selection: The selection over sets A, B and C.
        scores: What `evaluate` wrote.
        analysis: What `analyse` wrote.
        data_report: The data report of `prepare`.
        code: Digest of the code that computes, the report's too.
        report: Summary, statistics, tables and the report as files.
        tables: The tables, shown in the Kubeflow UI.
        page: The report, shown in the Kubeflow UI.

    Returns:
        Digest of all metrics: equal digests mean equal results.
    """
    import json
    import shutil
    from pathlib import Path

    from lhcnet import steps

    steps.start_task(step="compare", code=code)
    out = Path(report.path)
    steps.compare(
        Path(selection.path),
        Path(scores.path),
        out,
        data_report=Path(data_report.path),
        analysis=Path(analysis.path),
        execution=steps.execution_name_of_task(),
    )
    shutil.copyfile(out / "report.md", tables.path)
    shutil.copyfile(out / "report.html", page.path)
    return str(json.loads((out / "statistics.json").read_text())["metrics_digest"])
