from kfp import dsl

from components import component


@component
def register(
    chosen: dsl.Input[dsl.Model],
    scores: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.Artifact],
    name: str,
    registered: dsl.Output[dsl.Artifact],
) -> int:
    """Register the chosen model with the alias `champion`, after its comparison. Returns the version."""
    import os
    from pathlib import Path

    from lhcnet import steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    result = steps.register(
        Path(chosen.path),
        Path(scores.path),
        Path(registered.path),
        name=name,
        execution=os.environ["LHCNET_EXECUTION"],
    )
    return result["version"]
