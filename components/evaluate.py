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
    code: str,
    scores: dsl.Output[dsl.Artifact],
    chosen: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
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
        code: Digest of the code that computes.
        scores: Scores, predictions and confusion of the chosen model.
        chosen: The chosen model.
        metrics: Accuracies of the chosen model.
        confusion: Confusion matrix of the chosen model on test, without TTA.
    """
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task(step="evaluate", code=code)
    report = steps.evaluate(
        [Path(model.path) for model in [*set_a, *set_b, *set_c]],
        Path(selection.path),
        Path(trainval.path),
        Path(test.path),
        Path(scores.path),
        evaluation=config.parse(config.Evaluation, evaluation, "evaluation"),
        context=steps.RunContext.of_task(context),
        control=Path(control.path),
        chosen=Path(chosen.path),
    )
    chosen.metadata.update(display_name=report.chosen, id=report.chosen)
    scored = report.chosen_model()
    metrics.metadata.update({"val/accuracy": scored.validation.accuracy} | steps.score_metrics(scored.accuracies()))
    confusion.log_confusion_matrix(*steps.confusion_matrix(Path(scores.path)))
