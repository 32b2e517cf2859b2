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
    code: str,
    model: dsl.Output[dsl.Model],
    facts: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    attempt: int = 0,
):
    """Stages 2-4: train a model further.

    Args:
        trainval: Store with the splits train and validation.
        start: The model to start from.
        stage_number: 2, 3 or 4.
        stage: Section `stage2`, `stage3` or `stage4` of params.yaml.
        seed: Data seed.
        context: Sections `compute` and `checkpoints` of params.yaml.
        code: Digest of the code that computes.
        model: The trained model.
        facts: Its record without the weights: settings, metrics and training curves.
        metrics: Its losses and accuracies.
        attempt: Another number is another key of Kubeflow's cache. It changes no result.
    """
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task(step="train", code=code)
    saved = steps.supervised.train_stage(
        Path(trainval.path),
        Path(start.path),
        Path(model.path),
        stage_number=stage_number,
        stage=config.parse(config.Stage, stage, f"stage{stage_number}"),
        seed=seed,
        context=steps.RunContext.of_task(context),
    )
    saved.save_facts(Path(facts.path))
    steps.hand_over_journals(Path(facts.path))
    model.metadata.update(steps.model_metadata(saved))
    metrics.metadata.update(steps.model_metrics(saved))
