from kfp import dsl

from components import component


@component
def train_best(
    trainval: dsl.Input[dsl.Dataset],
    backbone: dsl.Input[dsl.Model],
    best: dsl.Input[dsl.Artifact],
    stage: dict,
    seed: int,
    context: dict,
    code: str,
    model: dsl.Output[dsl.Model],
    facts: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    attempt: int = 0,
):
    """Set C: insert five new attention modules, those of the best variant of set B, and train stage 4.

    Args:
        trainval: Store with the splits train and validation.
        backbone: The backbone after stage 3.
        best: The best variant of set B: name and settings of the five modules (JSON).
        stage: Section `stage4` of params.yaml.
        seed: Data seed; it also draws the initial weights of the modules.
        context: Sections `compute` and `checkpoints` of params.yaml.
        code: Digest of the code that computes.
        model: The trained model.
        facts: Its record without the weights: settings, metrics and training curves.
        metrics: Its losses and accuracies.
        attempt: Another number is another key of Kubeflow's cache. It changes no result.
    """
    from pathlib import Path

    from lhcnet import config, steps
    from lhcnet.io.files import read_json

    steps.start_task(step="train-inserted", code=code)
    saved = steps.supervised.train_inserted(
        Path(trainval.path),
        Path(backbone.path),
        Path(model.path),
        variant=config.parse(config.Variant, read_json(Path(best.path)), best.path),
        set_="C",
        stage=config.parse(config.Stage, stage, "stage4"),
        seed=seed,
        context=steps.RunContext.of_task(context),
    )
    saved.save_facts(Path(facts.path))
    steps.hand_over_journals(Path(facts.path))
    model.metadata.update(steps.model_metadata(saved))
    metrics.metadata.update(steps.model_metrics(saved))
