from kfp import dsl

from components import component


@component
def insert_lhc(model: dsl.Input[dsl.Model], variant: dict, seed: int, inserted: dsl.Output[dsl.Model]):
    """Set B: put five fresh attention modules into a trained ResNet34v2."""
    from pathlib import Path

    from lhcnet import config, steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    saved = steps.insert_lhc(
        Path(model.path),
        Path(inserted.path),
        variant=config.parse(config.Variant, variant, "variants"),
        set_="B",
        seed=seed,
    )
    inserted.metadata.update(id=saved.id, seed=seed)
