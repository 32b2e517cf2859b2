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
    """Raw FER2013 in any of its four shapes -> the stores trainval and test (sealed)."""
    import os
    from pathlib import Path

    from lhcnet import config, steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    result = steps.prepare(
        Path(trainval.path),
        Path(test.path),
        Path(report.path),
        data=config.parse(config.Data, data, "data"),
        source=Path(source.path),
        execution=os.environ["LHCNET_EXECUTION"],
    )
    trainval.metadata.update(digest=result["digest"], shape=result["shape"], validation=result["validation"])
    test.metadata["digest"] = result["digest"]
