"""Full disks, read-only places, two runs at once, files that change under a run: one sentence, and the former output.

The disks are real where the machine lets a test mount one (Linux, as root); where not, those tests are skipped and the
same writes fail at the limit that the system sets on the size of a file.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.hostile.images import IMAGE_FILES, encoded
from support.hostile.models import model_files
from support.hostile.tables import LINES, VALID

from lhcnet import steps
from lhcnet.config import Checkpoints, Config, Data
from lhcnet.data import image_files, sources
from lhcnet.data.drawn_faces import draw, write_csv, write_zip
from lhcnet.data.store import open_store, write_stores
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory, atomic_file
from lhcnet.io.files import write_json
from lhcnet.profiles import profile, to_yaml
from lhcnet.saved import open_model, save
from lhcnet.steps.scored_splits import ScoredSplits
from lhcnet.training import loop as training
from lhcnet.training.loop import fit

Do = Callable[[Path], object]  # writes `out` below a folder
SIZE = 16 << 20  # bytes of the disk


def files(path: Path) -> dict[str, bytes]:
    """Everything below, what is hidden too."""
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
    """So many bytes are left, rounded up to pages."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        free = os.statvfs(disk)
        file.write(bytes(max(free.f_bavail * free.f_frsize - left, 0)))
    yield
    ballast.unlink()


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- what writes -------------------------------------------------------------------------------------------


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
def do(request: pytest.FixtureRequest, made: dict[str, Any]) -> Do:
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


def refused(do: Do, folder: Path) -> None:
    """One sentence, and everything below the folder as it was."""
    before = files(folder)
    with pytest.raises(LhcnetError) as caught:
        do(folder)
    assert "out" in str(caught.value)
    assert "cannot be written; expected a writable path and free disk space: " in str(caught.value)
    assert not str(caught.value).endswith("None")
    assert files(folder) == before
    assert not [path.name for path in folder.rglob(".*")]


@pytest.mark.parametrize("former", [False, True])
def test_full_disk(do: Do, former: bool, disk: Path) -> None:
    if former:
        do(disk)
    with nearly_full(disk, 8192):
        refused(do, disk)
    do(disk)  # with room again, all is well


@pytest.mark.parametrize("left", [0, 4096, 16_384, 65_536, 262_144])
def test_disk_that_fills_up_while_stores_are_written(left: int, made: dict[str, Any], disk: Path) -> None:
    """Wherever it ends: stores complete or as they were."""
    data = Data(source=str(made["at"] / "faces.csv"))
    others = {"trainval": disk / "a", "test": disk / "b"}
    write_stores(VALID, *others.values())
    before = files(disk)
    with nearly_full(disk, left):
        try:
            steps.prepare(*others.values(), disk / "c.json", data=data)
        except LhcnetError:
            now = files(disk)
            stores = {open_store(path).digest for path in others.values()}
            assert len(stores) == 1
            assert stores != {VALID.digest} or {k: v for k, v in now.items() if k != "ballast"} == before
    assert not [path.name for path in disk.rglob(".*")]


@pytest.mark.parametrize("former", [False, True])
def test_files_that_cannot_grow(do: Do, former: bool, tmp_path: Path) -> None:
    """The same without a disk of its own."""
    if former:
        do(tmp_path)
    with files_end_at(500):
        refused(do, tmp_path)


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
    assert "cannot be written; expected a writable path and free disk space: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(disk.iterdir()) == []


# --- read-only places --------------------------------------------------------------------------------------


@pytest.mark.parametrize("former", [False, True])
def test_read_only_disk(do: Do, former: bool, disk: Path) -> None:
    if former:
        do(disk)
    mount(disk, "-o", "remount,ro")
    refused(do, disk)


def test_a_place_where_nobody_may_write(do: Do) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here, in which not even root may write")
    with pytest.raises(LhcnetError, match=r"/proc/.*out.* cannot be written; expected a writable path"):
        do(Path("/proc/lhcnet"))


# --- two runs at once --------------------------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
from lhcnet.data.drawn_faces import draw
from lhcnet.data.store import write_stores
from lhcnet.errors import LhcnetError
faces, out = draw(60, seed=int(sys.argv[1])), Path(sys.argv[2])
written = 0
for _ in range(40):
    try:
        write_stores(faces, out / "a", out / "b")
        written += 1
    except LhcnetError as error:
        print(error)
print(written)
"""


def test_three_processes_write_one_directory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN]
    runs = [
        subprocess.Popen(
            [*command, str(seed), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for seed in (1, 2, 3)
    ]
    for run in runs:
        printed, failed = run.communicate()
        assert failed == ""
        assert printed == "40\n"
    possible = {draw(60, seed=seed).digest for seed in (1, 2, 3)}
    assert {open_store(tmp_path / name).digest for name in ("a", "b")} <= possible
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_four_threads_that_swap_at_the_same_moment(tmp_path: Path) -> None:
    barrier, errors = threading.Barrier(4), []

    def write(number: int) -> None:
        for turn in range(50):
            barrier.wait()
            try:
                with atomic_directory(tmp_path / "out", "marker") as folder:
                    (folder / "marker").write_text(f"{number} {turn}")
                    (folder / "same").write_text(f"{number} {turn}")
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "marker").read_text() == (tmp_path / "out" / "same").read_text()


def test_a_directory_that_another_run_removes_while_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, listed = tmp_path / "out", os.listdir

    def replaced_meanwhile(handle: int) -> list[str]:
        monkeypatch.setattr(os, "listdir", listed)
        out.rename(tmp_path / "former")
        (tmp_path / "former" / "marker").unlink()
        out.mkdir()
        (out / "marker").touch()
        return listed(handle)

    out.mkdir()
    for name in ("marker", "other"):
        (out / name).touch()
    monkeypatch.setattr(os, "listdir", replaced_meanwhile)
    with atomic_directory(out, "marker") as folder:
        (folder / "marker").write_text("mine")
    assert (out / "marker").read_text() == "mine"


def test_of_stores_of_two_runs_none_is_mixed_with_the_other(tmp_path: Path) -> None:
    write_stores(draw(60, seed=1), tmp_path / "a", tmp_path / "b")
    write_stores(draw(60, seed=2), tmp_path / "c", tmp_path / "d")
    with pytest.raises(LhcnetError, match=r"d: is of data .*, but .*a of"):
        ScoredSplits.open(tmp_path / "a", tmp_path / "d")


# --- files that change under a run -------------------------------------------------------------------------

CSV = "\n".join(LINES).encode()


def rewrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def replace(path: Path, content: bytes) -> None:
    path.with_name("new").write_bytes(content)
    path.with_name("new").replace(path)


@pytest.mark.parametrize("how", [rewrite, replace])
@pytest.mark.parametrize("kept", [0, 9, len(CSV) // 2, CSV.rindex(b"\n"), len(CSV) + 4])
@pytest.mark.parametrize("moment", ["_header", "_parse_lines"])
def test_a_csv_changed_while_it_is_read(
    how: Callable[[Path, bytes], None], kept: int, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fer.csv"
    path.write_bytes(CSV)
    original = getattr(sources, moment)

    def changing(*arguments: Any) -> Any:
        how(path, (CSV + b"\n\n\n\n")[:kept])
        return original(*arguments)

    monkeypatch.setattr(sources, moment, changing)
    with pytest.raises(LhcnetError, match=r"fer\.csv"):
        sources.read(path)


@pytest.mark.parametrize("kept", [0, 100, -100, -1])
def test_a_zip_changed_while_it_is_read(kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fer.zip"
    write_zip(draw(60, seed=1), path)
    original, content = image_files._read_pixels, path.read_bytes()

    def changing(entry: Any) -> Any:
        path.write_bytes(content[:kept])
        return original(entry)

    monkeypatch.setattr(image_files, "_read_pixels", changing)
    with pytest.raises(LhcnetError, match=r"fer\.zip"):
        sources.read(path)


def test_an_image_changed_while_a_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in IMAGE_FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    original = image_files._read_pixels

    def changing(entry: Any) -> Any:
        entry.path.write_bytes(encoded(Image.effect_noise((48, 48), 9)))
        return original(entry)

    monkeypatch.setattr(image_files, "_read_pixels", changing)
    with pytest.raises(LhcnetError, match=r"\.png cannot be read, .* changed while it was read"):
        sources.read(tmp_path)


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
    write_json(report, {"digest": "0" * 64})
    with pytest.raises(LhcnetError, match="expected the report on the data"):
        steps.compare(at / "selection.json", at / "evaluation", tmp_path / "out", data_report=report)
    assert not (tmp_path / "out").exists()


def test_a_store_cut_off_after_it_was_opened_changes_nothing(tmp_path: Path) -> None:
    write_stores(VALID, tmp_path / "a", tmp_path / "b")
    store = open_store(tmp_path / "a")
    os.truncate(tmp_path / "a" / "images.npy", 0)
    assert np.array_equal(store.split("train")[0], VALID.images[VALID.splits == 0])


def test_weights_cut_off_after_they_were_read_change_nothing(tmp_path: Path) -> None:
    for name, content in model_files("modules").items():
        (tmp_path / name).write_bytes(content)
    network = open_model(tmp_path).network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    os.truncate(tmp_path / "model.safetensors", 0)
    assert all(np.array_equal(before[name], tensor) for name, tensor in network.state_dict().items())


# --- what a full disk may cost: the checkpoint, the record, never the training --------------------------------


@pytest.mark.parametrize("left", [0, 20_000, 200_000])
def test_no_room_for_checkpoints_and_record(
    made: dict[str, Any],
    tiny: Config,
    disk: Path,
    left: int,
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
    assert "no checkpoint could be written" in caplog.text or left == 200_000
    assert not list((disk / "checkpoints").glob("*")) or left == 200_000
    assert "the record of" in caplog.text or left
