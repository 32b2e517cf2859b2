from kfp import dsl

from components import component


@component
def train(
    trainval: dsl.Input[dsl.Dataset],
    start: dsl.Input[dsl.Model],
    number: int,
    stage: dict,
    compute: dict,
    checkpoints: dict,
    seed: int,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Stages 2-4: train the model `start` further."""
    import os
    from pathlib import Path

    from lhcnet import config, steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    saved = steps.train(
        Path(trainval.path),
        Path(model.path),
        number=number,
        stage=config.parse(config.Stage, stage, f"stage{number}"),
        seed=seed,
        compute=config.parse(config.Compute, compute, "compute"),
        checkpoints=config.parse(config.Checkpoints, checkpoints, "checkpoints"),
        start=Path(start.path),
        execution=os.environ["LHCNET_EXECUTION"],
    )
    facts = {name: value for name, value in saved.metrics.to_dict().items() if value not in (None, "")}
    model.metadata.update(id=saved.id, **facts)
    metrics.metadata.update({name: value for name, value in facts.items() if isinstance(value, float)})
