"""Resumed trainings end with the same bytes, and the checkpoint of another training is never used."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.drivers import copy_project, dvc
from support.host import SETTINGS
from support.interrupted import Interrupted

from lhcnet import steps
from lhcnet.config import Augmentation, Checkpoints, Config, Network, Stage
from lhcnet.data.drawn_faces import draw
from lhcnet.errors import LhcnetError
from lhcnet.model_record import Architecture
from lhcnet.models.lhcnet import LHCNet, add_control, freeze_all_but_control, insert_modules
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.models.slots import SlotNetwork
from lhcnet.profiles import to_yaml
from lhcnet.runtime import Device
from lhcnet.saved import Epoch, SavedModel, open_model
from lhcnet.training.checkpoint import EXIT_RETRY, MAX_OLD, Checkpoint, Preempted, Progress, checkpoint_digest
from lhcnet.training.forecast import Forecast
from lhcnet.training.loop import DataSplit, FitResult, fit

CPU = Device(torch.device("cpu"), "float32")
AUGMENTATION = Augmentation(rotation=20, shift=0.1, flip=True)
STAGES = {
    "adam": Stage(optimizer="adam", learning_rate=3e-3, batch_size=32, epochs=3, augmentation=AUGMENTATION),
    "sgd": Stage(optimizer="sgd", learning_rate=0.02, batch_size=48, epochs=3, augmentation=AUGMENTATION),
}


def network(*, control: bool = False) -> ResNetV2:
    """Wide enough for channels_last, so that restored tensors need the same memory format."""
    modules = [{"heads": 1, "d": 3}] * 5
    sizes = {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "head": (16,), "dropout": 0.4, "bn_momentum": 0.1}
    net = LHCNet(modules, input_size=32, seed=1, **sizes)
    # images are normalised from the first batch on: otherwise gradients explode, or not, depending on the processor
    net.bn_data.running_mean, net.bn_data.running_var = torch.full((3,), 128.0), torch.full((3,), 64.0**2)
    return freeze_all_but_control(add_control(net)) if control else net


@pytest.fixture(scope="module")
def data() -> tuple[DataSplit, DataSplit]:
    faces = draw(300, seed=3)
    train, validation = (
        DataSplit(faces.images[faces.splits == split], faces.labels[faces.splits == split]) for split in (0, 1)
    )
    return train, validation


def checkpoint(folder: Path, kind: type[Checkpoint] = Checkpoint, **identity: str) -> Checkpoint:
    return kind(folder, "C/x/seed-1", {"learning_rate": "0.1"} | identity, seconds=0)


def timm_network() -> SlotNetwork:
    return insert_modules(Architecture.of(Network(**SETTINGS["network"])).build(1), [{"heads": 1, "d": 3}] * 4, seed=1)


def train(
    data: tuple[DataSplit, DataSplit],
    stage: Stage,
    kept: Checkpoint | None,
    *,
    control: bool = False,
    net: SlotNetwork | None = None,
) -> tuple[bytes, bytes, FitResult]:
    """Weights after the last epoch, weights of the best epoch, and the result."""
    torch.manual_seed(random.randrange(10**9))  # the result must not depend on torch's global generator
    net, last = net or network(control=control), [b""]

    def keep_weights(_: Epoch) -> None:
        last[0] = weights(net)

    result = fit(net, *data, stage, seed=5, input_size=32, device=CPU, checkpoint=kept, on_epoch=keep_weights)
    return last[0], weights(net), result


def weights(net: SlotNetwork) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values())


@pytest.mark.parametrize("optimizer", STAGES)
@pytest.mark.parametrize("control", [False, True])
def test_an_interrupted_training_ends_with_the_same_bytes(
    tmp_path: Path, data: tuple[DataSplit, DataSplit], optimizer: str, control: bool
) -> None:
    whole = train(data, STAGES[optimizer], None, control=control)
    assert whole[0] != weights(network(control=control))  # the last epoch's weights are trained ones
    interrupted = checkpoint(tmp_path, Interrupted)
    assert isinstance(interrupted, Interrupted)
    interruptions = 0
    for writes in (1, 2, 9, 3, 1, 14, 1000):  # with seconds 0, one after every batch of training and validation
        interrupted.left = writes
        try:
            resumed = train(data, STAGES[optimizer], interrupted, control=control)
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 5
    assert resumed == whole


def test_an_interrupted_training_of_a_network_of_timm_ends_with_the_same_bytes(
    tmp_path: Path, data: tuple[DataSplit, DataSplit]
) -> None:
    whole = train(data, STAGES["adam"], None, net=timm_network())
    assert whole[0] != weights(timm_network())
    interrupted = checkpoint(tmp_path, Interrupted)
    assert isinstance(interrupted, Interrupted)
    for writes in (2, 7):
        interrupted.left = writes
        with pytest.raises(KeyboardInterrupt):
            train(data, STAGES["adam"], interrupted, net=timm_network())
    interrupted.left = 1000
    assert train(data, STAGES["adam"], interrupted, net=timm_network()) == whole


def test_resuming_reports_the_earlier_epochs_again(tmp_path: Path, data: tuple[DataSplit, DataSplit]) -> None:
    interrupted = Interrupted(tmp_path, "x", {}, seconds=0)
    interrupted.left = 20
    with pytest.raises(KeyboardInterrupt):
        train(data, STAGES["adam"], interrupted, control=False)
    rows: list[Epoch] = []
    left: list[float] = []
    forecast = Forecast(STAGES["adam"], 32, {32: 10.0}, clock=lambda: 0.0)

    def on_epoch(row: Epoch) -> None:
        rows.append(row)
        left.append(forecast.left(row.epoch))

    result = fit(
        network(),
        *data,
        STAGES["adam"],
        seed=5,
        input_size=32,
        device=CPU,
        checkpoint=interrupted,
        on_epoch=on_epoch,
        forecast=forecast,
    )
    assert rows == result.history
    assert left[:2] == [30, 20]  # what the earlier epochs took is not known here: as expected before the training


def test_sigterm_writes_a_checkpoint_and_exits_with_the_code_for_a_retry(
    tmp_path: Path, data: tuple[DataSplit, DataSplit]
) -> None:
    class Terminated(Checkpoint):
        calls = 0

        def due(self) -> bool:
            self.calls += 1
            if self.calls == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().due()

    before = signal.getsignal(signal.SIGTERM)
    kept = Terminated(tmp_path, "x", {}, seconds=1e9)
    with pytest.raises(Preempted) as ended:
        train(data, STAGES["adam"], kept, control=False)
    assert ended.value.code == EXIT_RETRY == os.EX_TEMPFAIL
    assert kept.path.exists()
    assert signal.getsignal(signal.SIGTERM) is before
    again = Checkpoint(tmp_path, "x", {}, seconds=1e9)
    assert train(data, STAGES["adam"], again, control=False) == train(data, STAGES["adam"], None, control=False)


def test_a_checkpoint_of_other_settings_is_not_used_and_the_difference_is_logged(
    tmp_path: Path, data: tuple[DataSplit, DataSplit], caplog: pytest.LogCaptureFixture
) -> None:
    interrupted = checkpoint(tmp_path, Interrupted)
    interrupted.left = 3  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        train(data, STAGES["adam"], interrupted, control=False)
    caplog.set_level(logging.WARNING)
    assert checkpoint(tmp_path, learning_rate="0.2", threads="1").load() is None
    assert "learning_rate was 0.1, is 0.2; threads was absent, is 1" in caplog.text
    assert checkpoint(tmp_path).load() is not None, "a return to the old settings resumes"

    other = checkpoint(tmp_path, learning_rate="0.3")
    interrupted.path.rename(other.path)  # a file name that does not match its content
    assert other.load() is None
    assert "learning_rate was 0.1, is 0.3" in caplog.text


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped header"])
def test_a_damaged_checkpoint_is_not_used(
    tmp_path: Path, data: tuple[DataSplit, DataSplit], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    interrupted = checkpoint(tmp_path, Interrupted)
    interrupted.left = 3  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        train(data, STAGES["adam"], interrupted, control=False)
    whole = interrupted.path.read_bytes()
    damaged = {"cut": whole[:-5], "empty": b"", "text": b"hello" * 99, "flipped header": whole[:9] + b"\0" + whole[10:]}
    interrupted.path.write_bytes(damaged[damage])
    assert checkpoint(tmp_path).load() is None
    assert "is not used" in caplog.text


def test_training_continues_without_checkpoints_on_a_full_disk(
    tmp_path: Path, data: tuple[DataSplit, DataSplit], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    kept = checkpoint(tmp_path / "file")
    assert train(data, STAGES["sgd"], kept, control=False) == train(data, STAGES["sgd"], None, control=False)
    assert caplog.text.count("no checkpoint could be written") == 1


def test_old_checkpoints_are_limited_and_unfinished_files_are_removed(
    tmp_path: Path, data: tuple[DataSplit, DataSplit]
) -> None:
    for i in range(MAX_OLD + 3):
        interrupted = checkpoint(tmp_path, Interrupted, learning_rate=str(i))
        interrupted.left = 1  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            train(data, STAGES["adam"], interrupted, control=False)
        os.utime(interrupted.path, (i, i))
    assert len(list(tmp_path.iterdir())) == MAX_OLD + 1
    half = tmp_path / f".{interrupted.path.name}.12345678"
    half.write_bytes(b"half")
    assert interrupted.load() is not None
    assert not half.exists()


def test_a_kill_within_a_write_leaves_nothing_after_the_next_start(
    tmp_path: Path, data: tuple[DataSplit, DataSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: object, file: Path, __: object) -> None:
        file.with_name(".tmpRANDOM").write_bytes(b"half")  # safetensors writes there, then renames
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr("lhcnet.training.checkpoint.save_file", killed)
        dying.setattr("lhcnet.training.checkpoint.remove", lambda _: None)  # a killed process removes nothing
        with pytest.raises(KeyboardInterrupt):
            train(data, STAGES["sgd"], checkpoint(tmp_path))
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [".tmpRANDOM"]
    assert checkpoint(tmp_path).load() is None
    assert not list(tmp_path.iterdir())


def test_the_digest_does_not_depend_on_the_checkpoint_settings(tiny: Config) -> None:
    other = tiny.model_copy(update={"checkpoints": Checkpoints(seconds=7)})
    assert other.digest() == tiny.digest()


def command(trainval: Path, out: Path) -> list[str]:
    return ["lhcnet", "train", str(trainval), str(out), "--stage", "1"]


def same(one: SavedModel, other: SavedModel) -> bool:
    return all((one.path / file.name).read_bytes() == file.read_bytes() for file in other.path.iterdir())


def test_a_command_killed_repeatedly_resumes_to_the_same_model(
    stores: tuple[Path, Path], tiny: Config, environment: dict[str, str], tmp_path: Path
) -> None:
    """After each SIGKILL the model directory is absent, or complete with the same bytes."""
    config = tiny.model_copy(update={"checkpoints": Checkpoints(seconds=0)})
    (tmp_path / "params.yaml").write_text(to_yaml(config))
    context, out = steps.RunContext(compute=config.compute), tmp_path / "out"
    whole = steps.train_backbone(
        stores[0], tmp_path / "whole", network=config.network, stage=config.stage1, seed=0, context=context
    )
    delays = random.Random(1)
    kept, killed = tmp_path / ".lhcnet" / "checkpoints", 0
    for _ in range(4):
        begun = time.time()
        process = subprocess.Popen(command(stores[0], out), cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        # wait for its first checkpoint, then for some more batches
        while process.poll() is None and not any(file.stat().st_mtime > begun for file in kept.glob("*.safetensors")):
            time.sleep(0.01)
        time.sleep(delays.random() * 0.5)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        assert not out.exists() or same(open_model(out), whole)
    assert killed
    subprocess.run(command(stores[0], out), cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert same(open_model(out), whole)
    assert not list(kept.iterdir()), "the checkpoint of a finished training is removed"


def test_dvc_repro_resumes_after_a_kill(one_seed: Config, environment: dict[str, str], tmp_path: Path) -> None:
    config = one_seed.model_copy(update={"checkpoints": Checkpoints(seconds=0)})
    folder = tmp_path / "project"
    folder.mkdir()
    copy_project(folder)
    (folder / "params.yaml").write_text(to_yaml(config))
    dvc(folder, environment, "init", "--no-scm", "-q")
    process = subprocess.Popen(
        ["dvc", "repro", "stage1"],
        cwd=folder,
        env=environment | {"DVC_NO_ANALYTICS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    kept = folder / ".lhcnet" / "checkpoints"
    while process.poll() is None and not list(kept.glob("*.safetensors")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # dvc and the command that it runs
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "artifacts" / "backbone" / "stage1").exists()
    assert "resuming at epoch" in dvc(folder, environment, "repro", "stage1", said=True)
    trainval, context = folder / "artifacts" / "trainval", steps.RunContext(compute=config.compute)
    whole = steps.train_backbone(
        trainval, tmp_path / "whole", network=config.network, stage=config.stage1, seed=0, context=context
    )
    assert same(open_model(folder / "artifacts" / "backbone" / "stage1"), whole)


def edited(change: Any) -> Any:
    """Damage that changes tensors or header of a checkpoint and writes it again; `digest` corrects the digest."""

    def damage(path: Path, *, digest: bool = True) -> None:
        with safe_open(path, "pt") as file:
            header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = json.loads(header["progress"])
        change(tensors, progress)
        header["progress"] = json.dumps(progress)
        if digest:
            header["digest"] = checkpoint_digest(tensors, header["progress"])
        save_file(tensors, path, header)

    return damage


def flip(position: float) -> Any:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(len(content) * position)] ^= 0x40
        path.write_bytes(content)

    return damage


def zero_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(4096)
    path.write_bytes(content)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").touch()


def sparse(path: Path) -> None:
    os.truncate(path, 2**40)


def huge_tensor(path: Path) -> None:
    header = {"network/bn_data.bias": {"dtype": "F32", "shape": [2**37], "data_offsets": [0, 2**39]}}
    with safe_open(path, "pt") as file:
        text = json.dumps(header | {"__metadata__": file.metadata()}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + 2**39)


DAMAGES = {
    "bit of a weight": (flip(0.3), "SHA-256"),
    "last bit": (flip(0.9999), "SHA-256"),
    "zeroed page": (zero_page, "SHA-256"),
    "pipe": (pipe, "not a regular file"),
    "folder": (folder, "not a regular file"),
    "longer than the file": (sparse, "file not fully covered"),
    "huge tensor": (huge_tensor, "it is damaged"),
    "no random state": (edited(lambda t, p: t.pop("random/cpu")), "random/cpu is missing"),
    "no weight": (edited(lambda t, p: t.pop("network/logits.bias")), "network/logits.bias is missing"),
    "no best weight": (edited(lambda t, p: t.pop("best/logits.bias")), "best/logits.bias is missing"),
    "no moment": (edited(lambda t, p: t.pop("optimizer/0/exp_avg")), "optimizer/0/exp_avg is missing"),
    "one too many": (edited(lambda t, p: t.update(x=torch.zeros(1))), "x does not belong to this training"),
    "shape": (
        edited(lambda t, p: t.update({"network/logits.bias": torch.zeros(3)})),
        "network/logits.bias is F32 (3,)",
    ),
    "dtype": (
        edited(lambda t, p: t.update({"totals/norm": torch.zeros((), dtype=torch.float64)})),
        "totals/norm is F64",
    ),
    "random state": (edited(lambda t, p: t["random/cpu"].fill_(255)), "random generator"),
    "best epoch": (edited(lambda t, p: p.update(best_epoch=99)), "best epoch is 99"),
    "batches": (edited(lambda t, p: p.update(batches=10**9)), "stopped after 1000000000 batches"),
    "batches below 0": (edited(lambda t, p: p.update(batches=-5)), "stopped after -5 batches"),
    "epoch": (edited(lambda t, p: p.update(epoch=10**30)), "stopped in epoch 1000000000000"),
    "no history": (edited(lambda t, p: p.update(epoch=0, history=[])), "its history has 0 epochs"),
    "progress": (edited(lambda t, p: p.update(epoch="x")), "epoch"),
}


@pytest.fixture(scope="module")
def interrupted_adam(data: tuple[DataSplit, DataSplit], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the checkpoint of an interrupted training in its second epoch."""
    kept = tmp_path_factory.mktemp("checkpoints")
    interrupted = checkpoint(kept, Interrupted)
    interrupted.left = 14  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        train(data, STAGES["adam"], interrupted, control=False)
    return kept


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_moved_aside_and_the_training_begins_anew(
    kind: str,
    interrupted_adam: Path,
    data: tuple[DataSplit, DataSplit],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage, says = DAMAGES[kind]
    kept = tmp_path / "checkpoints"
    shutil.copytree(interrupted_adam, kept)
    damaged = checkpoint(kept)
    damage(damaged.path)
    epochs: list[Epoch] = []

    class BegunError(Exception):
        pass

    def first_epoch(row: Epoch) -> None:
        epochs.append(row)
        raise BegunError

    with pytest.raises(BegunError):
        fit(
            network(),
            *data,
            STAGES["adam"],
            seed=5,
            input_size=32,
            device=CPU,
            checkpoint=damaged,
            on_epoch=first_epoch,
        )
    assert [row.epoch for row in epochs] == [0]
    assert caplog.text.count("is not used: it is damaged") == 1
    assert says in caplog.text
    assert not os.path.lexists(damaged.path)
    assert os.path.lexists(f"{damaged.path}.damaged")
    damaged.write({"x": torch.zeros(1)}, Progress(epoch=1, batches=1, best_epoch=0, history=()))
    assert damaged.path.is_file(), "there is room for the next checkpoint"


def test_a_second_damaged_checkpoint_is_moved_aside_too(interrupted_adam: Path, tmp_path: Path) -> None:
    kept = tmp_path / "checkpoints"
    for damage in (flip(0.3), folder, pipe, folder, flip(0.3)):
        shutil.copytree(interrupted_adam, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.damaged*"))
        damage(checkpoint(kept).path)
        assert checkpoint(kept).load() is None
        assert not os.path.lexists(checkpoint(kept).path)


def test_an_undamaged_checkpoint_passes_every_check(interrupted_adam: Path, tmp_path: Path) -> None:
    kept = tmp_path / "checkpoints"
    shutil.copytree(interrupted_adam, kept)
    edited(lambda t, p: None)(checkpoint(kept).path)
    assert checkpoint(kept).load() is not None


@pytest.mark.parametrize("kind", ["file", "missing link", "long name"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_training(
    kind: str, stores: tuple[Path, Path], tiny: Config, tmp_path: Path
) -> None:
    bad = {"file": tmp_path / "file", "missing link": tmp_path / "link" / "x", "long name": tmp_path / ("x" * 300)}[
        kind
    ]
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/proc/nothing")
    context = steps.RunContext(compute=tiny.compute, checkpoints=Checkpoints(folder=str(bad)))
    with pytest.raises(LhcnetError, match="cannot be written") as error:
        steps.train_backbone(
            stores[0], tmp_path / "out", network=tiny.network, stage=tiny.stage1, seed=0, context=context
        )
    assert str(error.value).startswith(str(bad))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_cannot_be_deleted_does_not_fail_a_finished_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = checkpoint(tmp_path)
    kept.path.mkdir()
    kept.remove()
    assert "could not be removed" in caplog.text
