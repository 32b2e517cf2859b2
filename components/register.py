from kfp import dsl

from components import component


@component
def register(
    chosen: dsl.Input[dsl.Model],
    scores: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.Artifact],
    name: str,
    registered: dsl.Output[dsl.Artifact],
) -> int:
    """Register the chosen model in MLflow with the alias `champion`.

    Args:
        chosen: The chosen model.
        scores: What `evaluate` wrote.
        report: What `compare` wrote; not read, but the comparison must have succeeded.
        name: Name of the registered model.
        registered: Name, version and alias (JSON).

    Returns:
        The version in the registry.
    """
    from pathlib import Path

    from lhcnet import steps

    steps.start_task()
    result = steps.register(
        Path(chosen.path),
        Path(scores.path),
        Path(registered.path),
        name=name,
        execution=steps.execution_name_of_task(),
    )
    return int(result["version"])
