from kfp import dsl

from components import component


@component
def best_of_b(
    models: dsl.Input[list[dsl.Model]],
    start: dsl.Input[dsl.Model],
    variants: list,
    loss_factor: float,
    selection: dsl.Output[dsl.Artifact],
    best: dsl.Output[dsl.Artifact],
):
    """The module settings of set B that are best on validation, after the 10 % loss rule, as a JSON file."""
    import json
    import os
    from pathlib import Path

    from lhcnet import steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    report = steps.select(
        [Path(model.path) for model in models],
        [Path(start.path)],
        Path(selection.path),
        loss_factor=loss_factor,
        execution=os.environ["LHCNET_EXECUTION"],
    )
    variant = next(variant for variant in variants if variant["name"] == report.chosen_variant)
    Path(best.path).write_text(json.dumps(variant), encoding="utf-8")
    best.metadata["name"] = report.chosen_variant
