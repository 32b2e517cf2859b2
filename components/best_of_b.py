from kfp import dsl

from components import component


@component
def best_of_b(
    models: dsl.Input[list[dsl.Model]],
    start: dsl.Input[dsl.Model],
    variants: list[dict],
    loss_factor: float,
    minimum: dict,
    selection: dsl.Output[dsl.Artifact],
    best: dsl.Output[dsl.Artifact],
):
    """Choose the best variant of set B on validation, after the 10 % loss rule.

    Args:
        models: The trained models of set B.
        start: The backbone, start of stage 4.
        variants: Section `variants` of params.yaml, as a list of name and modules.
        loss_factor: Limit of the training loss, as a multiple of that of the start.
        minimum: How many models of each set must be kept: section `selection.minimum` of params.yaml.
        selection: Every model with the reason why it was kept or rejected (JSON).
        best: The chosen variant (JSON).
    """
    import json
    import os
    from pathlib import Path

    from lhcnet import config, errors, steps

    steps.start_task()
    report = steps.select(
        [Path(model.path) for model in models],
        [Path(start.path)],
        Path(selection.path),
        loss_factor=loss_factor,
        minimum=config.parse(config.Minimum, minimum, "selection.minimum"),
        execution=os.environ["LHCNET_EXECUTION"],
    )
    variant = next((variant for variant in variants if variant["name"] == report.chosen_variant), None)
    if variant is None:
        raise errors.LhcnetError(f"variants: there is no variant {report.chosen_variant!r}, which selection chose")
    Path(best.path).write_text(json.dumps(variant), encoding="utf-8")
    best.metadata["name"] = report.chosen_variant
