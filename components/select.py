from kfp import dsl

from components import component


@component
def select(
    set_a: dsl.Input[list[dsl.Model]],
    set_b: dsl.Input[list[dsl.Model]],
    set_c: dsl.Input[list[dsl.Model]],
    stage1: dsl.Input[dsl.Model],
    stage2: dsl.Input[dsl.Model],
    start: dsl.Input[dsl.Model],
    loss_factor: float,
    minimum: dict,
    selection: dsl.Output[dsl.Artifact],
    chosen: dsl.Output[dsl.Model],
):
    """Apply the 10 % loss rule to sets A, B and C; choose the best kept model of B ∪ C on validation.

    Args:
        set_a: The trained models of set A.
        set_b: The trained models of set B.
        set_c: The trained models of set C.
        stage1: The backbone after stage 1.
        stage2: The backbone after stage 2.
        start: The backbone after stage 3, start of stage 4.
        loss_factor: Limit of the training loss, as a multiple of that of the start.
        minimum: How many models of each set must be kept: section `selection.minimum` of params.yaml.
        selection: Every model with the reason why it was kept or rejected (JSON).
        chosen: The chosen model.
    """
    import os
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task()
    report = steps.select(
        [Path(model.path) for model in [*set_a, *set_b, *set_c]],
        [Path(stage.path) for stage in (stage1, stage2, start)],
        Path(selection.path),
        loss_factor=loss_factor,
        minimum=config.parse(config.Minimum, minimum, "selection.minimum"),
        chosen=Path(chosen.path),
        execution=os.environ["LHCNET_EXECUTION"],
    )
    chosen.metadata["id"] = report.chosen
    selection.metadata.update({entry.id: entry.reason for entry in report.entries if not entry.kept})
