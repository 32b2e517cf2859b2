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
    compute: dict,
    scores: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Accuracy of the kept models, plain and with test-time augmentation. Alone receives the test split."""
    import os
    from pathlib import Path

    from lhcnet import config, steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    report = steps.evaluate(
        [Path(model.path) for model in [*set_a, *set_b, *set_c]],
        Path(selection.path),
        Path(trainval.path),
        Path(test.path),
        Path(scores.path),
        evaluation=config.parse(config.Evaluation, evaluation, "evaluation"),
        compute=config.parse(config.Compute, compute, "compute"),
        control=Path(control.path),
        execution=os.environ["LHCNET_EXECUTION"],
    )
    metrics.metadata.update(report.chosen_model().accuracies())
