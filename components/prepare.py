from kfp import dsl

from components import component


@component
def prepare(
    source: str,
    source_version: str,
    data: dict,
    trainval: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
):
    """Read FER2013 and write the stores of its splits.

    Args:
        source: Path or URI of FER2013 as it was downloaded: a CSV file, folders of images, or an archive of those.
        source_version: Version that it must have, such as sha256:...; empty: not checked.
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
        source=source,
        source_version=source_version,
        execution=os.environ["LHCNET_EXECUTION"],
    )
    trainval.metadata.update(digest=result.digest, shape=result.shape, validation=result.validation)
    test.metadata["digest"] = result.digest
