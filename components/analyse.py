from kfp import dsl

from components import component


@component
def analyse(
    model: dsl.Input[dsl.Model],
    trainval: dsl.Input[dsl.Dataset],
    analysis: dict,
    evaluation: dict,
    context: dict,
    code: str,
    results: dsl.Output[dsl.Artifact],
):
    """Analyse the LHC modules of a model on validation images (section 3.2.4).

    Args:
        model: The chosen model.
        trainval: Store with the splits train and validation.
        analysis: Section `analysis` of params.yaml.
        evaluation: Section `evaluation` of params.yaml.
        context: Sections `compute` and `checkpoints` of params.yaml.
        code: Digest of the code that computes.
        results: Effect of every module and head, correlation of heads, scaling and attention.
    """
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task(step="analyse", code=code)
    steps.analyse(
        Path(model.path),
        Path(trainval.path),
        Path(results.path),
        analysis=config.parse(config.Analysis, analysis, "analysis"),
        evaluation=config.parse(config.Evaluation, evaluation, "evaluation"),
        context=steps.RunContext.of_task(context),
    )
