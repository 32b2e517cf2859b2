from kfp import dsl

from components import component


@component
def select(
    set_a: dsl.Input[list[dsl.Artifact]],
    set_b: dsl.Input[list[dsl.Artifact]],
    set_c: dsl.Input[list[dsl.Artifact]],
    stage1: dsl.Input[dsl.Artifact],
    stage2: dsl.Input[dsl.Artifact],
    start: dsl.Input[dsl.Artifact],
    loss_factor: float,
    minimum: dict,
    code: str,
    selection: dsl.Output[dsl.Artifact],
):
    """Apply the 10 % loss rule to sets A, B and C; choose the best kept model of B ∪ C on validation.

    Args:
        set_a: Facts of the trained models of set A.
        set_b: Facts of the trained models of set B.
        set_c: Facts of the trained models of set C.
        stage1: Facts of the backbone after stage 1.
        stage2: Facts of the backbone after stage 2.
        start: Facts of the backbone after stage 3, start of stage 4.
        loss_factor: Limit of the training loss, as a multiple of that of the start.
        minimum: How many models of each set must be kept: section `selection.minimum` of params.yaml.
        code: Digest of the code that computes.
        selection: Every model with the reason why it was kept or rejected (JSON).
    """
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task(step="select", code=code)
    models = [Path(model.path) for model in [*set_a, *set_b, *set_c]]
    backbone = [Path(stage.path) for stage in (stage1, stage2, start)]
    steps.take_over_journals([*backbone, *models])
    report = steps.select(
        models,
        backbone,
        Path(selection.path),
        loss_factor=loss_factor,
        minimum=config.parse(config.Minimum, minimum, "selection.minimum"),
        execution=steps.execution_name_of_task(),
    )
    selection.metadata["chosen"] = report.chosen
    selection.metadata.update({entry.id: entry.reason for entry in report.entries if not entry.kept})
