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
    context: dict,
    code: str,
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
):
    """Compare LHC-Net with ResNet34v2 after every stage. The only task that receives the test split.

    Args:
        stage1: Models after stage 1, both networks with every data seed.
        stage2: Models after stage 2.
        stage3: Models after stage 3.
        trainval: Store with the splits train and validation.
        test: Store with the sealed split test.
        evaluation: Section `evaluation` of params.yaml.
        context: Sections `compute` and `checkpoints` of params.yaml.
        code: Digest of the code that computes.
        report: Scores, tables and the report as files.
        page: The report, shown in the Kubeflow UI.
    """
    import shutil
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task(step="compare-standalone", code=code)
    steps.compare_standalone(
        [Path(model.path) for model in [*stage1, *stage2, *stage3]],
        Path(trainval.path),
        Path(test.path),
        Path(report.path),
        evaluation=config.parse(config.Evaluation, evaluation, "evaluation"),
        context=steps.RunContext.of_task(context),
    )
    shutil.copyfile(Path(report.path) / "report.html", page.path)
