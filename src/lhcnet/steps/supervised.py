"""Trainings of pipeline tasks, each in a child process: one that dies for good fails only itself.

These functions take the place of the steps of the same name in Kubeflow's components. A set has many models, and
Kubeflow has no fan-in over the tasks that succeeded: one lost training would end the whole execution. Here the task
outlives its training. A child that dies is repeated once, from its checkpoint. If that dies too, runs out of memory, or
exceeds LHCNET_TIME_LIMIT, the task writes a model directory without weights, with the status and the reason; selection
rejects it. A stage of the backbone has no substitute: there, the task fails. So does it for an error that a user can
mend (`LhcnetError`: bad input or settings, no GPU), as without a child.

The child ends with this process. SIGTERM is passed on to it: it writes its checkpoint, and this process exits with the
child's status.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from lhcnet import allocator
from lhcnet.cgroup import ROOT, memory_exhausted, oom_kills
from lhcnet.config import Control, Network, SetName, Stage, Variant
from lhcnet.data.store import Store, open_store
from lhcnet.errors import LhcnetError
from lhcnet.io.preflight import await_folder
from lhcnet.model_record import Metrics, ModelInfo, Provenance, Unfinished
from lhcnet.saved import MODEL_FOLDER, SavedModel, open_model, save_unfinished
from lhcnet.steps.context import RunContext
from lhcnet.steps.control import control as train_controls
from lhcnet.steps.control import control_info, train_control
from lhcnet.steps.fit_model import with_settings
from lhcnet.steps.insert import insert_lhc
from lhcnet.steps.outputs import check_outputs
from lhcnet.steps.train import stage_info, standalone_id
from lhcnet.steps.train import train_backbone as backbone_step
from lhcnet.steps.train import train_stage as stage_step
from lhcnet.steps.train import train_standalone as standalone_step
from lhcnet.tracking.journal import Execution, journal_root, journaled
from lhcnet.tracking.names import provenance_params

log = logging.getLogger("lhcnet")

LIMIT = "LHCNET_TIME_LIMIT"  # environment variable: seconds for all attempts of a task in one pod
REFUSED, NO_MEMORY, CRASHED = "refused", "no memory", "crashed"  # kinds of an error of the child
_POLL = 0.25  # seconds between two looks at limits and memory
_GRACE = 300.0  # seconds that a child has for its checkpoint after the time limit
_VOLUME_WAIT = 60.0  # seconds
_LONGEST = 500  # characters of a reason


def train_backbone(
    trainval: Path,
    out: Path,
    *,
    network: Network,
    stage: Stage,
    seed: int,
    context: RunContext,
    start_weights: Path | None = None,
) -> SavedModel:
    """`lhcnet.steps.train_backbone` in a child process. Raises LhcnetError as well if the training ends early."""
    arguments = {"network": network, "stage": stage, "seed": seed, "context": context, "start_weights": start_weights}
    ended = Supervisor(context).run(backbone_step, trainval=trainval, out=out, **arguments)
    if ended.status:
        data = open_store(trainval).digest
        raise _failure(
            Provenance(id="backbone/stage1", set="backbone", stage=1, seed=seed, variant=None, data=data, start="none"),
            ended,
            context,
        )
    return open_model(out)


def train_standalone(
    trainval: Path,
    out: Path,
    *,
    network: Network,
    variant: Variant | None,
    stage: Stage,
    seed: int,
    context: RunContext,
    start_weights: Path | None = None,
) -> SavedModel:
    """`lhcnet.steps.train_standalone` in a child process. Raises LhcnetError as well if the training ends early."""
    arguments = {"network": network, "stage": stage, "seed": seed, "context": context, "start_weights": start_weights}
    ended = Supervisor(context).run(standalone_step, trainval=trainval, out=out, variant=variant, **arguments)
    if ended.status:
        name, data = variant.name if variant else None, open_store(trainval).digest
        id_ = standalone_id(name, seed, 1)
        raise _failure(
            Provenance(id=id_, set="standalone", stage=1, seed=seed, variant=name, data=data, start="none"),
            ended,
            context,
        )
    return open_model(out)


def train_stage(
    trainval: Path, start: Path, out: Path, *, stage_number: int, stage: Stage, seed: int, context: RunContext
) -> SavedModel:
    """`lhcnet.steps.train_stage` in a child process.

    Returns:
        The trained model. For sets A, B and C it has no weights if the training ended early.

    Raises:
        LhcnetError: as the step does, and if another training than stage 4 ended early.
    """
    arguments = {"stage_number": stage_number, "stage": stage, "seed": seed, "context": context}
    ended = Supervisor(context).run(stage_step, trainval=trainval, start=start, out=out, **arguments)
    if ended.status:
        store = open_store(trainval)
        info = stage_info(open_model(start), store, trainval, stage_number=stage_number, seed=seed)
        if info.provenance.set not in ("A", "B", "C"):
            raise _failure(info.provenance, ended, context)
        _write_unfinished(out, info, ended, stage, context)
    return open_model(out)


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
    """Set C in one task: `insert_lhc`, then stage 4 of `train_stage`, each in a child process.

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
        The trained model, without weights if its training ended early.

    Raises:
        LhcnetError: as the two steps do, and if the insertion ended early.
    """
    outputs, inputs = (out, MODEL_FOLDER), [trainval, backbone]
    check_outputs(outputs, inputs=inputs, execution=context.execution, checkpoints=context.checkpoints)
    with tempfile.TemporaryDirectory(prefix="lhcnet-") as folder:
        inserted = Path(folder, "inserted")
        arguments = {"variant": variant, "set_": set_, "seed": seed}
        ended = Supervisor(context).run(insert_lhc, model=backbone, out=inserted, **arguments)
        if ended.status:
            raise LhcnetError(f"{set_}/{variant.name}/seed-{seed}: insertion: {ended.status}: {ended.reason}")
        return train_stage(trainval, inserted, out, stage_number=4, stage=stage, seed=seed, context=context)


def control(
    models: Sequence[Path], selection: Path, trainval: Path, out: Path, *, control: Control, context: RunContext
) -> list[SavedModel]:
    """`lhcnet.steps.control` with each training in a child process. An LHC-NetC has no weights if it ended early."""
    supervisor = Supervisor(context)

    def train_one(start: SavedModel, store: Store, folder: Path) -> Path | None:
        ended = supervisor.run(
            train_control,
            start=start.path,
            trainval=store.path,
            out=folder,
            training=control.training,
            context=context,
        )
        if ended.status:
            _write_unfinished(folder, control_info(start), ended, control.training, context)
        return ended.returned

    return train_controls(models, selection, trainval, out, control=control, context=context, train=train_one)


@dataclass(frozen=True)
class Ended:
    """How the training of a child ended: `status` and `reason` if it did so early, else the path that it returned."""

    status: Unfinished | None = None
    reason: str = ""
    returned: Path | None = None


class Supervisor:
    """Child processes of one task, one after the other. They share the time limit of the task.

    Args:
        context: of the task; its checkpoints and the journal must be writable, or become so within a minute.

    Raises:
        LhcnetError: LHCNET_TIME_LIMIT is no number, or a folder cannot be written.
    """

    def __init__(self, context: RunContext) -> None:
        text = os.environ.get(LIMIT, "")
        if text and not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
            raise LhcnetError(f"{LIMIT}={text}: expected seconds, or nothing for no limit")
        self._limit = float(text) if text else math.inf
        self._deadline = time.monotonic() + self._limit
        self._signal = 0  # that this process received
        self._resumes = context.checkpoints is not None
        if context.checkpoints:
            await_folder(context.checkpoints.directory, _VOLUME_WAIT)
        if context.execution:
            await_folder(journal_root(), _VOLUME_WAIT)

    def run(self, step: Callable[..., object], **arguments: object) -> Ended:
        """Call a step in a child process; once more if the child dies.

        Args:
            step: a training step.
            arguments: of the step, all by name.

        Raises:
            LhcnetError: the step raised it.
            SystemExit: this process received SIGTERM; the status is the child's.
        """
        first = self._call(step, arguments)
        if first.status != "crashed":
            return first
        again = "from its checkpoint" if self._resumes else "from the beginning"
        log.warning("the process of the training died (%s): it is repeated once, %s", first.reason, again)
        return self._call(step, arguments)

    def _call(self, step: Callable[..., object], arguments: Mapping[str, object]) -> Ended:
        with tempfile.TemporaryDirectory(prefix="lhcnet-") as folder, self._forwarding_signals():
            result = Path(folder, "result.json")
            request = {"step": step.__name__, "arguments": plain(step, arguments), "parent": os.getpid()}
            kills = oom_kills(ROOT)
            with subprocess.Popen(
                [sys.executable, "-m", "lhcnet.steps.child"],
                stdin=subprocess.PIPE,
                text=True,
                env=allocator.environment(os.environ),
            ) as process:
                assert process.stdin is not None
                with suppress(BrokenPipeError):  # it has just died
                    process.stdin.write(json.dumps(request | {"result": str(result)}) + "\n")
                with suppress(BrokenPipeError):
                    process.stdin.close()
                ended = self._wait(process)
            if process.returncode and self._signal:
                raise SystemExit(process.returncode if process.returncode > 0 else 128 + self._signal)
            if process.returncode and ended:
                return ended
            if process.returncode == -signal.SIGKILL and oom_kills(ROOT) > kills:
                return Ended("out of memory", "the kernel ended the process, the container's memory limit was reached")
            return _result(result, process.returncode)

    def _wait(self, process: subprocess.Popen[str]) -> Ended | None:
        """Wait for the end of the child; returns why this process ended it, or None."""
        ended, passed_on = None, 0
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)
                return ended
            if self._signal != passed_on:  # also one that came while the child started
                process.send_signal(self._signal)
                passed_on = self._signal
            late = time.monotonic() - self._deadline
            if ended is None and late > 0:
                kept = "; its checkpoint is kept" if self._resumes else ""
                ended = Ended("time limit", f"not finished within {self._limit:g} s ({LIMIT}){kept}")
                log.warning("the training is stopped: %s", ended.reason)
                process.terminate()
            if late > _GRACE:
                process.kill()
            if full := memory_exhausted(ROOT):
                ended = Ended("out of memory", f"the processes took {full}")
                process.kill()

    @contextmanager
    def _forwarding_signals(self) -> Iterator[None]:
        """Within the block, SIGTERM and SIGHUP are passed on to the child instead of ending this process."""
        if threading.current_thread() is not threading.main_thread():  # Python delivers signals to this one only
            yield
            return
        if self._signal:
            raise SystemExit(128 + self._signal)

        def on_signal(number: int, _: FrameType | None) -> None:
            self._signal = number

        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def plain(step: Callable[..., object], arguments: Mapping[str, object]) -> dict[str, Any]:
    """The arguments of a step as plain JSON values; `typed` is the inverse."""
    kinds = get_type_hints(step)
    return {name: TypeAdapter(kinds[name]).dump_python(value, mode="json") for name, value in arguments.items()}


def typed(step: Callable[..., object], values: Mapping[str, object]) -> dict[str, Any]:
    """The arguments of a step from plain JSON values."""
    kinds = get_type_hints(step)
    # as JSON, because pydantic then accepts lists as tuples although the settings are strict about types
    return {name: TypeAdapter(kinds[name]).validate_json(json.dumps(value)) for name, value in values.items()}


def _result(file: Path, status: int) -> Ended:
    """What the child wrote before it ended with `status`.

    Raises:
        LhcnetError: its step raised it.
    """
    if not file.exists():
        name = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return Ended("crashed", f"its process ended with {name}")
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if "error" not in values:
        returned = values["returned"]
        return Ended(returned=Path(returned) if returned else None)
    text = str(LhcnetError(values["text"][:_LONGEST]))  # one line
    if values["error"] == REFUSED:
        raise LhcnetError(values["text"])
    return Ended("out of memory" if values["error"] == NO_MEMORY else "crashed", text)


def _write_unfinished(out: Path, info: ModelInfo, ended: Ended, stage: Stage, context: RunContext) -> None:
    """Write the model directory of a training that ended early, and record it."""
    assert ended.status
    log.error(
        "%s: %s (%s); it has no weights, and selection rejects it", info.provenance.id, ended.status, ended.reason
    )
    save_unfinished(out, with_settings(info, stage, context), Metrics(status=ended.status, reason=ended.reason))
    _record(info.provenance, ended, context)


def _failure(provenance: Provenance, ended: Ended, context: RunContext) -> LhcnetError:
    """Record a training that ended early; returns the error that ends the task."""
    _record(provenance, ended, context)
    return LhcnetError(f"{provenance.id}: {ended.status}: {ended.reason}")


class _EndedEarlyError(Exception):
    """Ends the record of a training with the status FAILED."""


def _record(provenance: Provenance, ended: Ended, context: RunContext) -> None:
    """End the MLflow run that the child left, and note why."""
    if context.execution is None:
        return
    execution, name = Execution(context.execution, provenance.data), f"train/{provenance.id}"
    tags = {"status": ended.status, "reason": ended.reason}
    with suppress(_EndedEarlyError), journaled(execution, name, tags=tags, mode="keep") as run:
        run.params(provenance_params(provenance))
        run.journal.append(run.name, "end", status="FAILED")  # also where an earlier journal made the run
        raise _EndedEarlyError
