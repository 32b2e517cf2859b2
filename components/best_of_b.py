from kfp import dsl

from components import component


@component
def best_of_b(
    models: dsl.Input[list[dsl.Model]],
    start: dsl.Input[dsl.Model],
    variants: list,
    loss_factor: float,
    selection: dsl.Output[dsl.Artifact],
) -> dict:
    """The module settings of set B that are best on validation, after the 10 % loss rule."""
    import os
    from pathlib import Path

    from lhcnet import steps

    report = steps.select(
        [Path(model.path) for model in models],
        Path(start.path),
        Path(selection.path),
        loss_factor=loss_factor,
        execution=os.environ["LHCNET_EXECUTION"],
    )
    return next(variant for variant in variants if variant["name"] == report.chosen_variant)
