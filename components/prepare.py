from kfp import dsl

from components import component


@component
def prepare(
    source: str,
    source_version: str,
    data: dict,
    code: str,
    trainval: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
):
    """Read FER2013 and write the stores of its splits.

    Args:
        source: Where FER2013 is, as it was downloaded: a CSV file, several, folders of images, or an archive of those.
        source_version: Version of the source; other bytes under the same address are refused. Empty is not checked.
        data: Section `data` of params.yaml.
        code: Digest of the code that computes.
        trainval: Store with the splits train and validation.
        test: Store with the sealed split test.
        report: Data report: counts, duplicates, damaged images (JSON).
    """
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task(step="prepare", code=code)
    result = steps.prepare(
        Path(trainval.path),
        Path(test.path),
        Path(report.path),
        data=config.parse(config.Data, data, "data"),
        source=source,
        source_version=source_version,
        execution=steps.execution_name_of_task(),
    )
    trainval.metadata.update(digest=result.digest, shape=result.shape, validation=result.validation)
    test.metadata["digest"] = result.digest
