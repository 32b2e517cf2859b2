"""Two trainings of the same content at once: each has a checkpoint file, and a repeated one finds its own."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lhcnet.training.checkpoint import MAX_OLD, Checkpoint, Progress
from lhcnet.training.checkpoint_lock import CheckpointLock, in_use, lock_file

PROGRESS = Progress(epoch=1, batches=1, best_epoch=0, history=())


def checkpoint(folder: Path, learning_rate: str = "0.1") -> Checkpoint:
    return Checkpoint(folder, "C/x/seed-1", {"learning_rate": learning_rate}, seconds=0)


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"x": torch.full((2,), value)}


def loaded(kept: Checkpoint) -> float | None:
    found = kept.load()
    return None if found is None else float(found[0]["x"][0])


@contextmanager
def in_another_process(path: Path, run: str = "bbbbbbbb-2222") -> Iterator[None]:
    """Another process holds the lock of a checkpoint; it is killed at the end."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.environ["LHCNET_KUBEFLOW_RUN"] = run
        CheckpointLock(path).take()
        os.write(tell, b"x")
        time.sleep(60)
        os._exit(1)
    os.read(told, 1)
    try:
        yield
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_the_second_training_has_a_file_of_its_own_and_leaves_that_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LHCNET_KUBEFLOW_RUN", "aaaaaaaa-1111")
    first = checkpoint(tmp_path)
    first.write(tensors(1.0), PROGRESS)
    half = tmp_path / f".{first.path.name}.12345678"  # the first is just writing
    half.touch()
    with in_another_process(first.path):
        second = checkpoint(tmp_path)
        with second.held():
            assert second.path.name == first.path.name.replace(".safetensors", ".aaaaaaaa.safetensors")
            assert loaded(second) is None
            second.write(tensors(2.0), PROGRESS)
        assert "in use by run bbbbbbbb-2222" in caplog.text
        assert second.path.name in caplog.text
        repeated = checkpoint(tmp_path)
        with repeated.held():
            assert loaded(repeated) == 2.0
        repeated.remove()
    assert half.exists()
    assert not repeated.path.exists()
    again = checkpoint(tmp_path)
    with again.held():  # the first was killed: a new submission resumes
        assert (again.path, loaded(again)) == (first.path, 1.0)
    assert not lock_file(first.path).exists()


def test_an_own_checkpoint_is_found_when_the_other_training_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LHCNET_KUBEFLOW_RUN", "aaaaaaaa-1111")
    common = checkpoint(tmp_path).path
    with in_another_process(common):
        second = checkpoint(tmp_path)
        with second.held():
            second.write(tensors(2.0), PROGRESS)
    repeated = checkpoint(tmp_path)
    with repeated.held():
        assert (repeated.path, loaded(repeated)) == (second.path, 2.0)


def test_a_new_attempt_in_the_same_run_does_not_wait_for_the_lock_of_the_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LHCNET_KUBEFLOW_RUN", "aaaaaaaa-1111")
    first = checkpoint(tmp_path)
    first.write(tensors(1.0), PROGRESS)
    with in_another_process(first.path, "aaaaaaaa-1111"):
        attempt = checkpoint(tmp_path)
        with attempt.held():
            assert (attempt.path, loaded(attempt)) == (first.path, 1.0)


def test_a_file_in_use_is_neither_removed_nor_pruned(tmp_path: Path) -> None:
    used = checkpoint(tmp_path, "0")
    used.write(tensors(0.0), PROGRESS)
    os.utime(used.path, (0, 0))
    with in_another_process(used.path):
        used.remove()
        for i in range(1, MAX_OLD + 4):
            checkpoint(tmp_path, str(i)).write(tensors(i), PROGRESS)
        assert used.path.exists()
    assert not in_use(used.path)
    checkpoint(tmp_path, "9").write(tensors(9.0), PROGRESS)
    assert not used.path.exists()


def test_without_locks_a_lock_file_that_was_touched_lately_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    common = checkpoint(tmp_path).path
    with in_another_process(common):
        pass
    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert in_use(common)
    second = checkpoint(tmp_path)
    with second.held():
        assert second.path != common
    os.utime(lock_file(common), (0, 0))
    third = checkpoint(tmp_path)
    with third.held():
        assert third.path == common
        os.utime(lock_file(common), (0, 0))
        third.write(tensors(1.0), PROGRESS)
        assert time.time() - lock_file(common).stat().st_mtime < 60
