from kfp import dsl

from components import component


@component
def compare_standalone(
    stage1: dsl.Input[list[dsl.Model]],
    stage2: dsl.Input[list[dsl.Model]],
    stage3: dsl.Input[list[dsl.Model]],
    trainval: dsl.Input[dsl.Dataset],
    test: dsl.Input[dsl.Dataset],
    evaluation: dict,
    compute: dict,
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
):
    """LHC-Net beside ResNet34v2 with the same data seeds, after every stage. Alone receives the test split."""
    import os
    import shutil
    from pathlib import Path

    from lhcnet import config, steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    steps.compare_standalone(
        [Path(model.path) for model in [*stage1, *stage2, *stage3]],
        Path(trainval.path),
        Path(test.path),
        Path(report.path),
        evaluation=config.parse(config.Evaluation, evaluation, "evaluation"),
        compute=config.parse(config.Compute, compute, "compute"),
        execution=os.environ["LHCNET_EXECUTION"],
    )
    shutil.copyfile(Path(report.path) / "report.html", page.path)
