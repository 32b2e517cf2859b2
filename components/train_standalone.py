from kfp import dsl

from components import component


@component
def train_standalone(
    trainval: dsl.Input[dsl.Dataset],
    start_weights: dsl.Input[dsl.Artifact],
    network: dict,
    variant: dict,
    stage: dict,
    seed: int,
    context: dict,
    code: str,
    model: dsl.Output[dsl.Model],
    facts: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Stage 1 of the stand-alone pipeline: train a new LHC-Net or ResNet34v2.

    Args:
        trainval: Store with the splits train and validation.
        start_weights: What `start_weights` wrote for the same network.
        network: Section `network` of params.yaml.
        variant: Name and settings of the five modules; empty for ResNet34v2.
        stage: Section `stage1` of params.yaml, with the patience of the stand-alone pipeline.
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
    saved = steps.supervised.train_standalone(
        Path(trainval.path),
        Path(model.path),
        network=config.parse(config.Network, network, "network"),
        variant=config.parse(config.Variant, variant, "variants") if variant else None,
        stage=config.parse(config.Stage, stage, "stage1"),
        seed=seed,
        context=steps.RunContext.of_task(context),
        start_weights=Path(start_weights.path),
    )
    saved.save_facts(Path(facts.path))
    model.metadata.update(steps.model_metadata(saved))
    metrics.metadata.update(steps.model_metrics(saved))
