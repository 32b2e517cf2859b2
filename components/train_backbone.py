from kfp import dsl

from components import component


@component
def train_backbone(
    trainval: dsl.Input[dsl.Dataset],
    start_weights: dsl.Input[dsl.Artifact],
    network: dict,
    stage: dict,
    seed: int,
    context: dict,
    code: str,
    model: dsl.Output[dsl.Model],
    facts: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Stage 1 of the backbone: train a new ResNet34v2.

    Args:
        trainval: Store with the splits train and validation.
        start_weights: What `start_weights` wrote for the same network.
        network: Section `network` of params.yaml.
        stage: Section `stage1` of params.yaml.
        seed: Data seed.
        context: Sections `compute` and `checkpoints` of params.yaml.
        code: Digest of the code that computes.
        model: The trained model.
        facts: Its record without the weights: settings, metrics and training curves.
        metrics: Its losses and accuracies.
    """
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task(step="train", code=code)
    saved = steps.supervised.train_backbone(
        Path(trainval.path),
        Path(model.path),
        network=config.parse(config.Network, network, "network"),
        stage=config.parse(config.Stage, stage, "stage1"),
        seed=seed,
        context=steps.RunContext.of_task(context),
        start_weights=Path(start_weights.path),
    )
    saved.save_facts(Path(facts.path))
    steps.hand_over_journals(Path(facts.path))
    model.metadata.update(steps.model_metadata(saved))
    metrics.metadata.update(steps.model_metrics(saved))
