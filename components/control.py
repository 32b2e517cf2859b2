from kfp import dsl

from components import component


@component
def control(
    set_b: dsl.Input[list[dsl.Model]],
    set_c: dsl.Input[list[dsl.Model]],
    selection: dsl.Input[dsl.Artifact],
    trainval: dsl.Input[dsl.Dataset],
    settings: dict,
    compute: dict,
    checkpoints: dict,
    models: dsl.Output[dsl.Artifact],
):
    """LHC-NetC: the five weights of the residual sums of kept LHC-Nets; none where the settings say so."""
    import os
    from pathlib import Path

    from lhcnet import config, steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    trained = steps.control(
        [Path(model.path) for model in [*set_b, *set_c]],
        Path(selection.path),
        Path(trainval.path),
        Path(models.path),
        control=config.parse(config.Control, settings, "control"),
        compute=config.parse(config.Compute, compute, "compute"),
        checkpoints=config.parse(config.Checkpoints, checkpoints, "checkpoints"),
        execution=os.environ["LHCNET_EXECUTION"],
    )
    models.metadata.update({saved.id: saved.metrics.val_accuracy for saved in trained})
