from kfp import dsl

from components import component


@component
def best_of_b(
    facts: dsl.Input[list[dsl.Artifact]],
    start: dsl.Input[dsl.Artifact],
    variants: list[dict],
    loss_factor: float,
    minimum: dict,
    code: str,
    selection: dsl.Output[dsl.Artifact],
    best: dsl.Output[dsl.Artifact],
):
    """Choose the best variant of set B on validation, after the 10 % loss rule.

    The variant is an artifact: into the tasks of a loop, a back end hands only one artifact of a list, and kfp's local
    runner no parameter of another task.

    Args:
        facts: Facts of the trained models of set B.
        start: Facts of the backbone, start of stage 4.
        variants: The items of the loop over set B: in each, `variant` is the name and the settings of the modules.
        loss_factor: Limit of the training loss, as a multiple of that of the start.
        minimum: How many models of each set must be kept: section `selection.minimum` of params.yaml.
        code: Digest of the code that computes.
        selection: Every model with the reason why it was kept or rejected (JSON).
        best: The chosen variant: name and modules (JSON).
    """
    import json
    from pathlib import Path

    from lhcnet import config, errors, steps

    steps.start_task(step="select", code=code)
    models = [Path(model.path) for model in facts]
    steps.take_over_journals([Path(start.path), *models])
    report = steps.select(
        models,
        [Path(start.path)],
        Path(selection.path),
        loss_factor=loss_factor,
        minimum=config.parse(config.Minimum, minimum, "selection.minimum"),
        execution=steps.execution_name_of_task(),
    )
    selection.metadata["chosen"] = report.chosen
    variant = next((i["variant"] for i in variants if i["variant"]["name"] == report.chosen_variant), None)
    if variant is None:
        raise errors.LhcnetError(f"variants: there is no variant {report.chosen_variant!r}, which selection chose")
    Path(best.path).write_text(json.dumps(variant), encoding="utf-8")
    best.metadata["display_name"] = report.chosen_variant
