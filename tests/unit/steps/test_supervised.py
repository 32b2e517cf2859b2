"""Trainings of pipeline tasks in a child process: how they may end, each through the component's Python function."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from support.drivers import assert_same_files

from components.train import train
from lhcnet import steps
from lhcnet.config import Checkpoints, Config
from lhcnet.errors import LhcnetError
from lhcnet.saved import SavedModel, open_facts, open_model
from lhcnet.steps import supervised
from lhcnet.steps.context import task_settings

FAULTY = """
import functools, logging, os, signal, sys, time
from pathlib import Path
if "lhcnet.steps.child" in sys.orig_argv:
    import lhcnet.steps.train as train
    from lhcnet.errors import LhcnetError
    step, tries = train.train_stage, Path(os.environ["TRIES"])

    @functools.wraps(step)
    def faulty(**arguments):
        with tries.open("a") as file:
            file.write("x")
        number = len(tries.read_text())
        logging.getLogger("lhcnet").info("attempt %d begins", number)
        BODY

    train.train_stage = faulty
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
WAIT = "time.sleep(300)"


class Task:
    """A task of the component `train`, whose child does what a test says instead of training."""

    def __init__(self, folder: Path, stores: tuple[Path, Path], backbone: SavedModel, config: Config) -> None:
        self.out, self.folder, self._trainval, self._start = folder / "model", folder, stores[0], backbone.path
        self.config = config.model_copy(update={"checkpoints": Checkpoints(folder=str(folder / "checkpoints"))})

    def run(self, stage_number: int = 4, seconds: float = 300.0) -> dict[str, Any]:
        """Metadata of the model that the component writes."""
        model, checkpoints = dsl.Model(uri=str(self.out)), {"folder": f"{self.folder}/checkpoints", "seconds": seconds}
        train.python_func(
            trainval=dsl.Dataset(uri=str(self._trainval)),
            start=dsl.Model(uri=str(self._start)),
            stage_number=stage_number,
            stage=self.config.stages[stage_number - 1].to_dict(),
            seed=1,
            context=task_settings(self.config) | {"checkpoints": checkpoints},
            code="",
            model=model,
            facts=dsl.Artifact(uri=str(self.folder / "facts")),
            metrics=dsl.Metrics(uri=str(self.folder / "metrics")),
        )
        return dict(model.metadata)

    @property
    def tries(self) -> int:
        file = self.folder / "tries"
        return len(file.read_text()) if file.exists() else 0

    def journals(self) -> list[list[dict[str, Any]]]:
        """Entries of each journal, in the order in which they began."""
        files = sorted((self.folder / "journal").glob("n*/journal.jsonl"))
        return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


@pytest.fixture
def task(
    tmp_path: Path, stores: tuple[Path, Path], backbone: SavedModel, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> Task:
    monkeypatch.setattr(steps, "start_task", lambda *_, **__: None)  # this process stays as it is
    monkeypatch.setattr(supervised, "ROOT", tmp_path)  # the limits of no container
    for name, value in {
        "LHCNET_EXECUTION": "supervised",
        "LHCNET_JOURNAL": str(tmp_path / "journal"),
        "LHCNET_TRACKING_WAIT": "0",
        "TRIES": str(tmp_path / "tries"),
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }.items():
        monkeypatch.setenv(name, value)
    return Task(tmp_path, stores, backbone, tiny)


@pytest.fixture
def child(tmp_path: Path) -> Callable[[str], None]:
    """Say what the child does; Python imports `sitecustomize` at its start."""

    def does(body: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(FAULTY.replace("BODY", body))

    return does


def cgroup(root: Path, files: dict[str, str]) -> None:
    """The files of a container's control group (version 2)."""
    found = {"proc/self/cgroup": "0::/\n"} | {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
    for name, content in found.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


@pytest.mark.parametrize(
    ("body", "status", "reason", "tries"),
    [
        (KILL, "crashed", "its process ended with signal SIGKILL", 2),
        ("raise RuntimeError('boom')", "crashed", "RuntimeError: boom", 2),
        ("os._exit(7)", "crashed", "its process ended with status 7", 2),
        ("raise MemoryError('8 GiB')", "out of memory", "MemoryError: 8 GiB", 1),
    ],
    ids=["killed", "raises", "exits", "memory"],
)
def test_a_training_that_dies_is_a_model_without_weights(
    body: str, status: str, reason: str, tries: int, task: Task, child: Callable[[str], None],
    capfd: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    child(body)
    found = task.run()
    assert (found["id"], found["status"], found["reason"]) == ("A/seed-1", status, reason)
    assert task.tries == tries
    assert f"attempt {tries} begins" in capfd.readouterr().err  # the child's log
    saved = open_model(task.out)
    assert not (task.out / "model.safetensors").exists()
    assert saved.info.provenance.training == task.config.stage4
    with pytest.raises(LhcnetError, match=f"A/seed-1 has no weights, because its training ended early .{status}: "):
        saved.network()
    assert open_facts(tmp_path / "facts").record() == saved.record()
    last = task.journals()[-1]
    tags = {"status": status, "reason": reason}
    assert [entry["tags"].items() >= tags.items() for entry in last if entry["do"] == "open"] == [True]
    assert [entry["status"] for entry in last if entry["do"] in ("end", "close")] == ["FAILED", "FAILED"]


def test_the_time_limit_ends_a_training(
    task: Task, child: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    child(WAIT)
    monkeypatch.setenv("LHCNET_TIME_LIMIT", "0.5")
    found = task.run()
    assert found["status"] == "time limit"
    assert found["reason"] == "not finished within 0.5 s (LHCNET_TIME_LIMIT); its checkpoint is kept"


def test_a_time_limit_that_is_no_number_is_refused(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LHCNET_TIME_LIMIT", "1h")
    with pytest.raises(LhcnetError, match="LHCNET_TIME_LIMIT=1h: expected seconds"):
        task.run()


def test_the_kernel_ends_a_training_for_lack_of_memory(
    task: Task, child: Callable[[str], None], tmp_path: Path
) -> None:
    cgroup(tmp_path, {"memory.events": "oom 0\noom_kill 2\n"})
    counter = tmp_path / "sys/fs/cgroup/memory.events"
    child(f"Path({str(counter)!r}).write_text('oom 1\\noom_kill 3\\n'); {KILL}")
    assert task.run()["status"] == "out of memory"
    assert task.tries == 1


def test_a_container_that_would_be_killed_as_a_whole_loses_the_training_alone(
    task: Task, child: Callable[[str], None], tmp_path: Path
) -> None:
    stat = "anon 990000\nfile 5000000\nshmem 0\n"
    cgroup(tmp_path, {"memory.oom.group": "1\n", "memory.max": "1000000\n", "memory.stat": stat})
    child(WAIT)
    found = task.run()
    assert (found["status"], task.tries <= 1) == ("out of memory", True)
    assert "that the container may use" in found["reason"]


def test_what_a_user_can_mend_fails_the_task(task: Task, child: Callable[[str], None]) -> None:
    child("raise LhcnetError('stage4.batch_size: expected less')")
    with pytest.raises(LhcnetError, match=r"^stage4\.batch_size: expected less$"):
        task.run()
    assert (task.tries, task.out.exists()) == (1, False)


def test_a_backbone_that_dies_fails_the_task(task: Task, child: Callable[[str], None]) -> None:
    child(KILL)
    with pytest.raises(LhcnetError, match=r"^backbone/stage2: crashed: its process ended with signal SIGKILL$"):
        task.run(stage_number=2)
    assert (task.tries, task.out.exists()) == (2, False)


def test_sigterm_is_passed_on(task: Task, child: Callable[[str], None], tmp_path: Path) -> None:
    child(WAIT)
    before = signal.getsignal(signal.SIGTERM)

    def end() -> None:
        while not task.tries:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end, daemon=True).start()
    with pytest.raises(SystemExit) as ended:
        task.run()
    assert (ended.value.code, task.tries, task.out.exists()) == (143, 1, False)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_training_that_dies_once_resumes_with_the_same_result(
    task: Task, child: Callable[[str], None], capfd: pytest.CaptureFixture[str], stores: tuple[Path, Path],
    backbone: SavedModel, context: steps.RunContext, tmp_path: Path,
) -> None:  # fmt: skip
    """The first attempt is killed when it has ended an epoch; the second goes on from the checkpoint."""
    child(
        """
        class Kill(logging.Handler):
            def emit(self, record):
                if number == 1 and " epoch 1 of " in record.getMessage():
                    os.kill(os.getpid(), signal.SIGKILL)
        logging.getLogger("lhcnet").addHandler(Kill())
        return step(**arguments)
"""
    )
    assert task.run(seconds=0.0)["status"] == "trained"
    said = capfd.readouterr().err
    assert "A/seed-1: resuming at epoch 1" in said
    assert task.tries == 2
    steps.train_stage(
        stores[0], backbone.path, tmp_path / "alone", stage_number=4, stage=task.config.stage4, seed=1, context=context
    )
    assert_same_files(task.out, tmp_path / "alone")
    assert list((tmp_path / "checkpoints").iterdir()) == []
