from kfp import dsl

from components import component


@component
def prepare(
    source: dsl.Input[dsl.Dataset],
    data: dict,
    trainval: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
):
    """Read FER2013 and write the stores of its splits.

    Args:
        source: FER2013 as it was downloaded: a CSV file, several, folders of images, or an archive of those.
        data: Section `data` of params.yaml.
        trainval: Store with the splits train and validation.
        test: Store with the sealed split test.
        report: Data report: counts, duplicates, damaged images (JSON).
    """
    import os
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task()
    result = steps.prepare(
        Path(trainval.path),
        Path(test.path),
        Path(report.path),
        data=config.parse(config.Data, data, "data"),
        source=Path(source.path),
        execution=os.environ["LHCNET_EXECUTION"],
    )
    trainval.metadata.update(digest=result.digest, shape=result.shape, validation=result.validation)
    test.metadata["digest"] = result.digest
