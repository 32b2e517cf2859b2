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
    selection: dsl.Output[dsl.Artifact],
    chosen: dsl.Output[dsl.Model],
):
    """The 10 % loss rule over A, B and C; the chosen model is the best kept one of B u C on validation."""
    import os
    from pathlib import Path

    from lhcnet import steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    report = steps.select(
        [Path(model.path) for model in [*set_a, *set_b, *set_c]],
        [Path(stage.path) for stage in (stage1, stage2, start)],
        Path(selection.path),
        loss_factor=loss_factor,
        chosen=Path(chosen.path),
        execution=os.environ["LHCNET_EXECUTION"],
    )
    chosen.metadata["id"] = report.chosen
    selection.metadata.update({entry.id: entry.reason for entry in report.entries if not entry.kept})
