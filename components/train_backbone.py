from kfp import dsl

from components import component


@component
def train_backbone(
    trainval: dsl.Input[dsl.Dataset],
    network: dict,
    stage: dict,
    compute: dict,
    checkpoints: dict,
    seed: int,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    standalone: bool = False,
    variant: dict = {},  # noqa: B006
):
    """Stage 1: a new ResNet34v2, from ImageNet weights or an explicit random start; with a variant, an LHC-Net."""
    import os
    from pathlib import Path

    from lhcnet import config, steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    saved = steps.train(
        Path(trainval.path),
        Path(model.path),
        number=1,
        stage=config.parse(config.Stage, stage, "stage1"),
        seed=seed,
        compute=config.parse(config.Compute, compute, "compute"),
        checkpoints=config.parse(config.Checkpoints, checkpoints, "checkpoints"),
        network=config.parse(config.Network, network, "network"),
        variant=config.parse(config.Variant, variant, "variants") if variant else None,
        standalone=standalone,
        execution=os.environ["LHCNET_EXECUTION"],
    )
    facts = {name: value for name, value in saved.metrics.to_dict().items() if value not in (None, "")}
    model.metadata.update(id=saved.id, **facts)
    metrics.metadata.update({name: value for name, value in facts.items() if isinstance(value, float)})
