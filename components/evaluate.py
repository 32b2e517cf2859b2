from kfp import dsl

from components import component


@component
def evaluate(
    set_a: dsl.Input[list[dsl.Model]],
    set_b: dsl.Input[list[dsl.Model]],
    set_c: dsl.Input[list[dsl.Model]],
    control: dsl.Input[dsl.Artifact],
    selection: dsl.Input[dsl.Artifact],
    trainval: dsl.Input[dsl.Dataset],
    test: dsl.Input[dsl.Dataset],
    evaluation: dict,
    context: dict,
    scores: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Score the kept models and the LHC-NetCs, without TTA and with it. The only task that receives the test split.

    Args:
        set_a: The trained models of set A.
        set_b: The trained models of set B.
        set_c: The trained models of set C.
        control: The LHC-NetCs.
        selection: The selection over sets A, B and C.
        trainval: Store with the splits train and validation.
        test: Store with the sealed split test.
        evaluation: Section `evaluation` of params.yaml.
        context: Sections `compute` and `checkpoints` of params.yaml.
        scores: Scores, predictions and confusion of the chosen model.
        metrics: Accuracies of the chosen model.
    """
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task()
    report = steps.evaluate(
        [Path(model.path) for model in [*set_a, *set_b, *set_c]],
        Path(selection.path),
        Path(trainval.path),
        Path(test.path),
        Path(scores.path),
        evaluation=config.parse(config.Evaluation, evaluation, "evaluation"),
        context=steps.RunContext.of_task(context),
        control=Path(control.path),
    )
    metrics.metadata.update(report.chosen_model().accuracies())
