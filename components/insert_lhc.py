from kfp import dsl

from components import component


@component
def insert_lhc(model: dsl.Input[dsl.Model], variant: dict, seed: int, code: str, inserted: dsl.Output[dsl.Model]):
    """Set B: insert five new attention modules into the backbone.

    Args:
        model: The backbone after stage 3.
        variant: Name and settings of the five modules.
        seed: Draws the initial weights of the modules.
        code: Digest of the code that computes.
        inserted: The network with its modules, not yet trained.
    """
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task(step="insert", code=code)
    saved = steps.insert_lhc(
        Path(model.path),
        Path(inserted.path),
        variant=config.parse(config.Variant, variant, "variants"),
        set_="B",
        seed=seed,
    )
    inserted.metadata.update(display_name=saved.id, id=saved.id, seed=seed)
