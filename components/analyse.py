from kfp import dsl

from components import component


@component
def analyse(
    model: dsl.Input[dsl.Model],
    trainval: dsl.Input[dsl.Dataset],
    analysis: dict,
    evaluation: dict,
    compute: dict,
    results: dsl.Output[dsl.Artifact],
):
    """Section 3.2.4 on validation images: modules and heads switched off and reset, correlation, scaling, attention."""
    import os
    from pathlib import Path

    from lhcnet import config, steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    steps.analyse(
        Path(model.path),
        Path(trainval.path),
        Path(results.path),
        analysis=config.parse(config.Analysis, analysis, "analysis"),
        evaluation=config.parse(config.Evaluation, evaluation, "evaluation"),
        compute=config.parse(config.Compute, compute, "compute"),
        execution=os.environ["LHCNET_EXECUTION"],
    )
