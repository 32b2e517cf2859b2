from kfp import dsl

from components import component


@component
def control(
    set_b: dsl.Input[list[dsl.Model]],
    set_c: dsl.Input[list[dsl.Model]],
    selection: dsl.Input[dsl.Artifact],
    trainval: dsl.Input[dsl.Dataset],
    settings: dict,
    context: dict,
    code: str,
    models: dsl.Output[dsl.Artifact],
    attempt: int = 0,
):
    """LHC-NetC: train the five weights of the residual sums of trained LHC-Nets.

    Args:
        set_b: The trained models of set B.
        set_c: The trained models of set C.
        selection: The selection over sets A, B and C.
        trainval: Store with the splits train and validation.
        settings: Section `control` of params.yaml.
        context: Sections `compute` and `checkpoints` of params.yaml.
        code: Digest of the code that computes.
        models: One model directory for each LHC-NetC; none where the settings say so.
        attempt: Another number is another key of Kubeflow's cache. It changes no result.
    """
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task(step="control", code=code)
    trained = steps.supervised.control(
        [Path(model.path) for model in [*set_b, *set_c]],
        Path(selection.path),
        Path(trainval.path),
        Path(models.path),
        control=config.parse(config.Control, settings, "control"),
        context=steps.RunContext.of_task(context),
    )
    models.metadata.update({saved.id: saved.metrics.val_accuracy or saved.metrics.status for saved in trained})
