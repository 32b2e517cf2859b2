from kfp import dsl

from components import component


@component
def train(
    trainval: dsl.Input[dsl.Dataset],
    start: dsl.Input[dsl.Model],
    stage_number: int,
    stage: dict,
    seed: int,
    context: dict,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Stages 2-4: train a model further.

    Args:
        trainval: Store with the splits train and validation.
        start: The model to start from.
        stage_number: 2, 3 or 4.
        stage: Section `stage2`, `stage3` or `stage4` of params.yaml.
        seed: Data seed.
        context: Sections `compute` and `checkpoints` of params.yaml.
        model: The trained model.
        metrics: Its losses and accuracies.
    """
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task()
    saved = steps.supervised.train_stage(
        Path(trainval.path),
        Path(start.path),
        Path(model.path),
        stage_number=stage_number,
        stage=config.parse(config.Stage, stage, f"stage{stage_number}"),
        seed=seed,
        context=steps.RunContext.of_task(context),
    )
    model.metadata.update(steps.model_metadata(saved))
    metrics.metadata.update(steps.model_metrics(saved))
