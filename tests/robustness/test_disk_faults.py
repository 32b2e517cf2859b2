"""Full and read-only disks: one sentence, and the former output stays as it was.

The disks are real where a test may mount one (Linux, as root). Elsewhere those tests are skipped, and the same writes
fail at the limit that the system sets on the size of a file.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from support.hostile.tables import VALID

from lhcnet import steps
from lhcnet.config import Checkpoints, Config, Data
from lhcnet.data.audit import audit
from lhcnet.data.drawn_faces import draw, write_csv, write_zip
from lhcnet.data.store import write_stores
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_file
from lhcnet.io.files import write_json
from lhcnet.profiles import profile, to_yaml
from lhcnet.saved import SavedModel, open_model, save
from lhcnet.training import loop as training
from lhcnet.training.loop import fit

Write = Callable[[Path], object]  # writes `out` into a folder
SIZE = 16 << 20  # bytes of the disk


def files(path: Path) -> dict[str, bytes]:
    """Contents of all files below a folder, hidden ones too."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def mount(at: Path, *options: str) -> None:
    done = subprocess.run(["mount", *options, str(at)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine lets no test mount a file system: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 16 MB."""
    if not shutil.which("mount"):
        pytest.skip("no mount here: no real disk can be filled")
    at = tmp_path / "disk"
    at.mkdir()
    mount(at, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs")
    yield at
    subprocess.run(["umount", "-l", str(at)], check=True)


@contextmanager
def nearly_full(disk: Path, left: int) -> Iterator[None]:
    """Fill the disk until `left` bytes are free, rounded up to pages."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        free = os.statvfs(disk)
        file.write(bytes(max(free.f_bavail * free.f_frsize - left, 0)))
    yield
    ballast.unlink()


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Limit the size of every file, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- everything that writes --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny backbone, an LHC-Net of it, their selection and evaluation, on drawn faces."""
    at = tmp_path_factory.mktemp("made")
    write_csv(draw(400, seed=1), at / "faces.csv")
    data = (at / "trainval", at / "test")
    steps.prepare(*data, at / "report.json", data=Data(source=str(at / "faces.csv")))
    context = steps.RunContext(compute=tiny.compute)
    common = {"seed": 0, "context": context}
    start = steps.train_backbone(data[0], at / "start", stage=tiny.stage1, network=tiny.network, **common)
    steps.insert_lhc(start.path, at / "inserted", variant=tiny.variant("narrow"), set_="B", seed=0)
    lhc = steps.train_stage(data[0], at / "inserted", at / "lhc", stage_number=4, stage=tiny.stage4, **common)
    steps.select([lhc.path], [start.path], at / "selection.json", loss_factor=99.0)
    settings = {"evaluation": tiny.evaluation.model_copy(update={"tta": "best"}), "context": context}
    steps.evaluate([lhc.path], at / "selection.json", *data, at / "evaluation", **settings)
    return {"at": at, "settings": settings, "data": data}


@pytest.fixture(params=["prepare", "save", "select", "evaluate", "compare", "faces", "report"])
def write(request: pytest.FixtureRequest, made: dict[str, Any]) -> Write:
    at, data = made["at"], made["data"]

    def prepare(folder: Path) -> object:
        out = folder / "out"
        return steps.prepare(out / "a", out / "b", out / "c.json", data=Data(source=str(at / "faces.csv")))

    def saved(folder: Path) -> object:
        model = open_model(at / "lhc")
        return save(folder / "out", model.network(), model.info, model.metrics, model.history)

    def select(folder: Path) -> object:
        return steps.select([at / "lhc"], [at / "start"], folder / "out.json", loss_factor=99.0, chosen=folder / "out")

    def evaluate(folder: Path) -> object:
        return steps.evaluate([at / "lhc"], at / "selection.json", *data, folder / "out", **made["settings"])

    def compare(folder: Path) -> object:
        report = at / "report.json"
        return steps.compare(at / "selection.json", at / "evaluation", folder / "out", data_report=report)

    def faces(folder: Path) -> object:
        with atomic_file(folder / "out.zip") as file:
            return write_zip(draw(60, seed=2), file)

    def report(folder: Path) -> object:
        with atomic_file(folder / "out.json") as file:
            return write_json(file, {"long": "x" * 10_000})

    known = {"prepare": prepare, "save": saved, "select": select, "evaluate": evaluate, "compare": compare}
    return (known | {"faces": faces, "report": report})[request.param]


def assert_refused(write: Write, folder: Path) -> None:
    """The error is one sentence, and the folder is as it was."""
    before = files(folder)
    with pytest.raises(LhcnetError) as caught:
        write(folder)
    assert "out" in str(caught.value)
    assert "cannot be written" in str(caught.value)
    assert not str(caught.value).endswith("None")
    assert files(folder) == before
    assert not [path.name for path in folder.rglob(".*")]


@pytest.mark.parametrize("former", [False, True])
def test_full_disk(write: Write, former: bool, disk: Path) -> None:
    if former:
        write(disk)
    with nearly_full(disk, 8192):
        assert_refused(write, disk)
    write(disk)  # with room again, all is well


@pytest.mark.parametrize("left", [0, 4096, 16_384, 65_536, 262_144])
def test_disk_that_fills_up_while_stores_are_written(left: int, made: dict[str, Any], disk: Path) -> None:
    """Wherever the room ends, both stores are as they were."""
    data = Data(source=str(made["at"] / "faces.csv"))
    others = {"trainval": disk / "a", "test": disk / "b"}
    write_stores(VALID, *others.values())
    before = files(disk)
    with nearly_full(disk, left):
        with pytest.raises(LhcnetError, match="cannot be written"):
            steps.prepare(*others.values(), disk / "c.json", data=data)
        now = {name: content for name, content in files(disk).items() if name != "ballast"}
        assert now == before
    assert not [path.name for path in disk.rglob(".*")]


@pytest.mark.parametrize("former", [False, True])
def test_files_that_cannot_grow(write: Write, former: bool, tmp_path: Path) -> None:
    """The same without a disk of its own."""
    if former:
        write(tmp_path)
    with files_end_at(500):
        assert_refused(write, tmp_path)


def test_the_command_line_says_it_in_one_sentence(made: dict[str, Any], disk: Path, tmp_path: Path) -> None:
    config = profile("demo", {"data.source": str(made["at"] / "faces.csv")})
    (tmp_path / "params.yaml").write_text(to_yaml(config))
    targets = [str(disk / name) for name in ("a", "b", "c.json")]
    with nearly_full(disk, 8192):
        done = subprocess.run(
            [sys.executable, "-c", "from lhcnet.cli import main; main()", "prepare", *targets],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("lhcnet: ")
    assert "cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(disk.iterdir()) == []


# --- read-only places --------------------------------------------------------------------------------------


@pytest.mark.parametrize("former", [False, True])
def test_read_only_disk(write: Write, former: bool, disk: Path) -> None:
    if former:
        write(disk)
    mount(disk, "-o", "remount,ro")
    assert_refused(write, disk)


def test_a_place_where_nobody_may_write(write: Write) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here, in which not even root may write")
    with pytest.raises(LhcnetError, match=r"/proc/.*out.* cannot be written"):
        write(Path("/proc/lhcnet"))


# --- stores that are replaced between steps -----------------------------------------------------------------


def test_data_replaced_between_steps(made: dict[str, Any], tiny: Config, tmp_path: Path) -> None:
    at, (_, test) = made["at"], made["data"]
    other = tmp_path / "trainval"
    write_stores(draw(120, seed=9), other, tmp_path / "test")
    context = steps.RunContext(compute=tiny.compute)
    with pytest.raises(LhcnetError, match="was trained on data"):
        steps.train_stage(
            other, at / "start", tmp_path / "out", stage_number=2, stage=tiny.stage2, seed=0, context=context
        )
    for mixed in ((other, test), (other, tmp_path / "test")):
        with pytest.raises(LhcnetError, match="is of data"):
            steps.evaluate([at / "lhc"], at / "selection.json", *mixed, tmp_path / "out", **made["settings"])
    report = tmp_path / "report.json"
    write_json(report, audit(draw(120, seed=9)).to_dict())
    with pytest.raises(LhcnetError, match="expected the report on the data"):
        steps.compare(at / "selection.json", at / "evaluation", tmp_path / "out", data_report=report)
    assert not (tmp_path / "out").exists()


# --- a full disk costs the checkpoint and the record, never the training -------------------------------------


NO_CHECKPOINT = "no checkpoint could be written"


@pytest.mark.parametrize(("left", "warnings"), [(0, [NO_CHECKPOINT]), (20_000, [NO_CHECKPOINT]), (200_000, [])])
def test_no_room_for_checkpoints_and_record(
    made: dict[str, Any],
    tiny: Config,
    disk: Path,
    left: int,
    warnings: list[str],
    tracking: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (disk / "journal").mkdir()
    monkeypatch.setenv("LHCNET_JOURNAL", str(disk / "journal"))
    checkpoints = Checkpoints(folder=str(disk / "checkpoints"), seconds=0)
    filled = []

    def fill(*args: Any, **named: Any) -> Any:
        filled.append(nearly_full(disk, left))
        filled[0].__enter__()
        return fit(*args, **named)

    monkeypatch.setattr(training, "fit", fill)
    context = steps.RunContext(compute=tiny.compute, checkpoints=checkpoints, execution="full")
    inserted, out = made["at"] / "inserted", made["at"] / f"full-{left}"
    saved = steps.train_stage(
        made["data"][0], inserted, out, stage_number=4, stage=tiny.stage4, seed=0, context=context
    )
    assert all((made["at"] / "lhc" / name).read_bytes() == text for name, text in files(saved.path).items())
    assert not list((disk / "checkpoints").glob("*"))
    assert [warning for warning in warnings if warning not in caplog.text] == []
    # no entry is lost in silence: the record is complete in MLflow, or a warning says that it is not
    assert "the record of" in caplog.text or recorded(tracking, saved)


def recorded(tracking: str, saved: SavedModel) -> bool:
    """Whether MLflow has all epochs and the final metrics of the only training in it."""
    client = mlflow.MlflowClient(tracking)
    experiment = client.get_experiment_by_name("lhcnet")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.step = 'train/{saved.id}'")
    epochs = client.get_metric_history(run.info.run_id, "epoch/val_accuracy")
    return (
        run.info.status == "FINISHED"
        and "record" not in run.data.tags
        and len(epochs) == len(saved.history)
        and run.data.metrics["val/accuracy"] == saved.metrics.val_accuracy
    )
