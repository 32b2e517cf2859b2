"""Set C in one step: insert the LHC modules of the best variant, then train stage 4 (Table 6)."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from lhcnet.config import SetName, Stage, Variant
from lhcnet.saved import MODEL_FOLDER, SavedModel
from lhcnet.steps.context import RunContext
from lhcnet.steps.insert import insert_lhc
from lhcnet.steps.outputs import check_outputs
from lhcnet.steps.train import train_stage


def train_inserted(
    trainval: Path,
    backbone: Path,
    out: Path,
    *,
    variant: Variant,
    set_: SetName,
    stage: Stage,
    seed: int,
    context: RunContext,
) -> SavedModel:
    """Insert five new attention modules into the backbone and train stage 4: `insert_lhc`, then `train_stage`.

    The result is that of the two steps, byte for byte.

    Args:
        trainval: store with the splits train and validation.
        backbone: model directory of the ResNet34v2 after stage 3.
        out: model directory to write.
        variant: settings of the five modules.
        set_: the set that the model belongs to, B or C.
        stage: settings of stage 4.
        seed: data seed; it also draws the initial weights of the modules.
        context: device, checkpoints and execution.

    Returns:
        The trained model.

    Raises:
        LhcnetError: as those of `insert_lhc` and `train_stage`.
    """
    check_outputs(
        (out, MODEL_FOLDER), inputs=[trainval, backbone], execution=context.execution, checkpoints=context.checkpoints
    )
    with TemporaryDirectory(prefix="lhcnet-") as folder:
        inserted = Path(folder) / "inserted"
        insert_lhc(backbone, inserted, variant=variant, set_=set_, seed=seed)
        return train_stage(trainval, inserted, out, stage_number=4, stage=stage, seed=seed, context=context)
