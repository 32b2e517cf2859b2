from kfp import dsl

from components import component


@component
def register(
    chosen: dsl.Input[dsl.Model],
    scores: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.Artifact],
    data_report: dsl.Input[dsl.Artifact],
    name: str,
    champion: str,
    registered: dsl.Output[dsl.Artifact],
) -> int:
    """Register the chosen model in MLflow, as challenger, and by the rule as champion.

    Args:
        chosen: The chosen model.
        scores: What `evaluate` wrote.
        report: What `compare` wrote; not read, but the comparison must have succeeded.
        data_report: Data report of `prepare`.
        name: Name of the registered model.
        champion: Rule by which it becomes champion (`registry.champion`).
        registered: Name, version and alias (JSON).

    Returns:
        The version in the registry.
    """
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task()
    result = steps.register(
        Path(chosen.path),
        Path(scores.path),
        Path(registered.path),
        data_report=Path(data_report.path),
        registry=config.parse(config.Registry, {"model": name, "champion": champion}, "registry"),
        execution=steps.execution_name_of_task(),
    )
    return int(result["version"])
