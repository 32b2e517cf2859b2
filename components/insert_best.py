from kfp import dsl

from components import component


@component
def insert_best(model: dsl.Input[dsl.Model], best: dsl.Input[dsl.Artifact], seed: int, inserted: dsl.Output[dsl.Model]):
    """Set C: insert five new attention modules with the best settings of set B into the backbone.

    Args:
        model: The backbone after stage 3.
        best: The best variant of set B (JSON).
        seed: Draws the initial weights of the modules.
        inserted: The network with its modules, not yet trained.
    """
    from pathlib import Path

    from lhcnet import config, steps
    from lhcnet.io.files import read_json

    steps.start_task()
    saved = steps.insert_lhc(
        Path(model.path),
        Path(inserted.path),
        variant=config.parse(config.Variant, read_json(Path(best.path)), best.path),
        set_="C",
        seed=seed,
    )
    inserted.metadata.update(id=saved.id, seed=seed)
