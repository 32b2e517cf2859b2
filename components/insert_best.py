from kfp import dsl

from components import component


@component
def insert_best(model: dsl.Input[dsl.Model], best: dsl.Input[dsl.Artifact], seed: int, inserted: dsl.Output[dsl.Model]):
    """Set C: put five fresh attention modules, with the best settings of set B, into a trained ResNet34v2."""
    from pathlib import Path

    from lhcnet import config, steps
    from lhcnet.runtime import tune_gc

    tune_gc()
    text = Path(best.path).read_text(encoding="utf-8")
    saved = steps.insert_lhc(
        Path(model.path),
        Path(inserted.path),
        variant=config.parse(config.Variant, config.read_yaml(text, best.path), best.path),
        set_="C",
        seed=seed,
    )
    inserted.metadata.update(id=saved.id, seed=seed)
