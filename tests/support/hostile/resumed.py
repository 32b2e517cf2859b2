"""Checkpoints of our own trainings: one that is not exactly what was written is not used."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path

import torch
from safetensors.torch import load, save

from lhcnet.config import Stage
from lhcnet.saved import Epoch
from lhcnet.training.checkpoint import Checkpoint, Progress, checkpoint_digest
from lhcnet.training.loop import progress_problem
from support.hostile.choices import Choices, altered_json, damaged, demand, special

STAGE, IMAGES = Stage(batch_size=4, epochs=9, patience=2), 40
PROBLEM = partial(progress_problem, stage=STAGE, images=IMAGES)
PROGRESS = Progress(
    epoch=2,
    batches=3,
    best_epoch=1,
    history=(
        Epoch(epoch=0, val_loss=2.0, val_accuracy=0.25),
        Epoch(epoch=1, train_loss=1.9, train_accuracy=0.3, grad_norm=1.0, val_loss=1.8, val_accuracy=0.5),
    ),
)
TENSORS = {
    "network/weight": torch.arange(12.0).reshape(3, 4),
    "best/weight": torch.ones(3, 4),
    "network/seen": torch.tensor(7),
    "random/cpu": torch.Generator().manual_seed(0).get_state(),
}


def checkpoint_in(folder: Path) -> Checkpoint:
    return Checkpoint(folder, "A/seed-0", {"seed": "0", "code": "c" * 64}, 0.0)


@cache
def checkpoint_file() -> bytes:
    work = Path(tempfile.gettempdir(), f"hostile-checkpoint-{os.getpid()}")
    written = checkpoint_in(work)
    written.write(TENSORS, PROGRESS)
    content = written.path.read_bytes()
    written.remove()
    shutil.rmtree(work)
    return content


def altered_header(c: Choices, content: bytes) -> bytes:
    """The header altered as JSON, its length corrected: names, types, shapes and places of tensors, and metadata."""
    size = int.from_bytes(content[:8], "little")
    header = altered_json(c, content[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def forged(c: Choices, content: bytes) -> bytes:
    """Another progress, or another tensor, with the digest that belongs to it."""
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    tensors = load(content)
    if c.number(2):
        metadata["progress"] = altered_json(c, metadata["progress"].encode()).decode(errors="replace")
    else:
        name = c.pick(sorted(tensors))
        flat = tensors[name].reshape(-1)
        tensors[name] = c.pick([flat[:1].clone(), tensors[name].double(), flat])
        tensors |= {"network/more": torch.zeros(2)} if c.one_in(4) else {}
    metadata["digest"] = checkpoint_digest(tensors, metadata["progress"])
    return save(tensors, metadata)


def resumed(c: Choices, folder: Path) -> bool:
    """The state that was written comes back, or None; a forged one is possible for this training, at least."""
    source = folder / "in"
    reader, written = checkpoint_in(source), checkpoint_file()
    reader.path.write_bytes(written)
    kind = c.number(4) if not special(c, source) else 3
    content = written
    if reader.path.is_file() and not reader.path.is_symlink():
        content = (damaged, altered_header, forged, lambda _, same: same)[kind](c, written) if c.number(64) else written
        reader.path.write_bytes(content)
    logging.disable()  # a warning says why a checkpoint is not used
    try:
        found = checkpoint_in(source).load(TENSORS, PROBLEM)
    finally:
        logging.disable(logging.NOTSET)
    if found is None:
        demand(content != written or not reader.path.is_file(), "refused what was written")
        return False
    tensors, progress = found
    demand(tensors.keys() == TENSORS.keys(), "other tensors")
    if kind == 2:
        demand(not PROBLEM(tensors, progress), "an impossible progress")
        return True
    demand(progress == PROGRESS, "another progress")
    demand(all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS), "other values")
    return True
