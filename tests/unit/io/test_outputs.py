"""Outputs are replaced only where that is safe: nothing foreign is deleted or followed, and nothing is left behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lhcnet.errors import LhcnetError
from lhcnet.io import atomic, preflight
from lhcnet.io.atomic import atomic_directory, atomic_file
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.io.exchange import exchange
from lhcnet.io.hidden import remove_leftovers

OWN = OwnFolder("own.json", OwnJson.having("version", "data"), frozenset({"own.json", "table.csv"}))
NESTED = OwnFolder("index.json", OwnJson.having("models"), frozenset({"index.json"}), folders=OWN)
MARKER = {"version": 1, "data": "x"}


def tree(path: Path) -> dict[str, str]:
    """Every entry below a folder: the text of files, the target of links, "" for folders. Links are not followed."""
    return {
        str(p.relative_to(path)): f"-> {p.readlink()}" if p.is_symlink() else "" if p.is_dir() else p.read_text()
        for p in path.rglob("*")
    }


def write(target: Path, data: str = "new") -> None:
    with atomic_directory(target, OWN) as folder:
        (folder / "own.json").write_text(json.dumps(MARKER | {"data": data}))
        (folder / "table.csv").write_text(data)


def write_file(target: Path) -> None:
    with atomic_file(target) as file:
        file.write_text("new")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def written(target: Path) -> str:
    return (target / "table.csv").read_text()


# --- what a step may replace -----------------------------------------------------------------------------------


def foreign_json(folder: Path) -> None:
    (folder / "own.json").write_text('{"format": "layers-model"}')


def no_json(folder: Path) -> None:
    (folder / "own.json").write_text("a shopping list")


def empty_marker(folder: Path) -> None:
    (folder / "own.json").write_text("")


def marker_that_is_a_folder(folder: Path) -> None:
    (folder / "own.json").unlink()
    (folder / "own.json").mkdir()
    (folder / "own.json" / "thesis.tex").write_text("years of work")


def without_marker(folder: Path) -> None:
    (folder / "own.json").unlink()


def foreign_file(folder: Path) -> None:
    (folder / "thesis.tex").write_text("years of work")


def hidden_file(folder: Path) -> None:
    (folder / ".git").write_text("gitdir: elsewhere")


def foreign_folder(folder: Path) -> None:
    (folder / "src" / "deep").mkdir(parents=True)
    (folder / "src" / "deep" / "main.py").write_text("print(1)")


def empty_folder(folder: Path) -> None:
    (folder / "0").mkdir()


def folder_of_a_known_name(folder: Path) -> None:
    (folder / "table.csv").unlink()
    (folder / "table.csv").mkdir()


def link_to_a_folder(folder: Path) -> None:
    (folder / "data").symlink_to("..")


def known_name_that_leads_to_a_folder(folder: Path) -> None:
    (folder / "table.csv").unlink()
    (folder / "table.csv").symlink_to("..")


def pipe(folder: Path) -> None:
    (folder / "own.json").unlink()
    os.mkfifo(folder / "own.json")


FOREIGN = [
    foreign_json, no_json, empty_marker, marker_that_is_a_folder, without_marker, foreign_file, hidden_file,
    foreign_folder, empty_folder, folder_of_a_known_name, link_to_a_folder, known_name_that_leads_to_a_folder, pipe,
]  # fmt: skip


@pytest.mark.parametrize("change", FOREIGN)
def test_a_folder_that_may_be_somebodys_is_refused(change: Callable[[Path], None], tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "former")
    change(out)
    entries = sorted(str(p) for p in tmp_path.rglob("*"))
    with pytest.raises(LhcnetError, match=rf"^{out} is not replaced: .*; name another folder, or move this one away$"):
        write(out)
    assert sorted(str(p) for p in tmp_path.rglob("*")) == entries
    assert out.stat().st_ino


def test_it_is_refused_before_the_block_runs(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    ran = []
    with pytest.raises(LhcnetError, match=r"thesis\.tex"), atomic_directory(tmp_path, OWN):
        ran.append(True)
    assert not ran


def test_the_own_former_output_and_an_empty_folder_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for data in ("first", "second"):
        write(tmp_path / "out", data)
        assert written(tmp_path / "out") == data
    assert names(tmp_path) == ["out"]


def test_folders_in_the_folder(tmp_path: Path) -> None:
    def write_nested() -> None:
        with atomic_directory(tmp_path / "out", NESTED) as folder:
            (folder / "index.json").write_text('{"models": ["0", "1"]}')
            write(folder / "0")
            write(folder / "1")

    write_nested()
    write_nested()
    (tmp_path / "out" / "1" / "notes.txt").write_text("mine")
    with pytest.raises(LhcnetError, match=r"it holds 1/notes\.txt, which this step does not write"):
        write_nested()
    (tmp_path / "out" / "1" / "notes.txt").unlink()
    (tmp_path / "out" / "1" / "own.json").write_text("{}")
    with pytest.raises(LhcnetError, match=r"1: its own\.json was not written by this step"):
        write_nested()


def test_files_that_dvc_linked_into_its_cache_stay_in_it(tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    write(out, "former")
    cache.mkdir()
    for file in list(out.iterdir()):
        file.rename(cache / file.name)
        file.symlink_to(cache / file.name)
    before = tree(cache)
    write(out)
    assert written(out) == "new"
    assert tree(cache) == before


def test_what_appears_at_the_last_moment_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    for possible in (True, False):
        write(out, "former")
        moment = "exchange" if possible else "_foreign_entry"
        original: Callable[..., Any] = getattr(atomic, moment)

        def put(*args: Any, original: Callable[..., Any] = original) -> Any:
            (out if out.exists() else args[0]).joinpath("thesis.tex").write_text("years of work")
            return original(*args)

        with monkeypatch.context() as patch:
            if not possible:
                patch.setattr(atomic, "exchange", lambda one, other: False)
            patch.setattr(atomic, moment, put)
            with pytest.raises(LhcnetError, match=r"meanwhile somebody put thesis\.tex into it"):
                write(out)
        assert written(out) == "former"
        assert names(tmp_path) == ["out"]
        (out / "thesis.tex").unlink()


# --- links -----------------------------------------------------------------------------------------------------


def test_what_an_output_links_to_is_left_as_it_is(tmp_path: Path) -> None:
    """DVC with `cache.type symlink`: the output is a link to a read-only object that is named by its checksum."""
    cached = tmp_path / "cache" / "1b" / "dc3c01dfc7cd62cd266aeac647f3e1"
    cached.parent.mkdir(parents=True)
    cached.write_text("former")
    cached.chmod(0o444)
    output = tmp_path / "selection.json"
    output.symlink_to(cached)
    with atomic_file(output, OwnJson.having("version")) as beside:
        beside.write_text("new")
    assert output.read_text() == "new"
    assert not output.is_symlink()
    assert cached.read_text() == "former"
    assert cached.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("leads_to", ["own", "empty", "foreign", "missing", "link"])
def test_a_folder_behind_a_link_is_not_touched(leads_to: str, tmp_path: Path) -> None:
    write(tmp_path / "own", "former")
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("years of work")
    (tmp_path / "link").symlink_to(leads_to)  # "link" leads to itself
    before = tree(tmp_path)
    with pytest.raises(LhcnetError, match=r"link is a link to .*; name the folder itself"):
        write(tmp_path / "link")
    assert tree(tmp_path) == before


def test_a_dead_link_to_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "missing")
    with atomic_file(tmp_path / "out") as file:
        file.write_text("new")
    assert tree(tmp_path) == {"out": "new"}


def test_a_link_above_the_output_is_followed(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "artifacts").symlink_to("big")
    write(tmp_path / "artifacts" / "out")
    assert written(tmp_path / "big" / "out") == "new"


# --- refused before the work -------------------------------------------------------------------------------------


@pytest.fixture(params=["directory", "file"])
def check(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    def directory(path: Path) -> object:
        return preflight.output_directory(path, OWN)

    def file(path: Path) -> object:
        return preflight.output_file(path, None)

    return {"directory": directory, "file": file}[request.param]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a\0b", "without the character NUL"),
        ("/", "root of the file system"),
        ("file/out", "is not a folder"),
        ("/dev/null/out", "is not a folder"),
        ("/dev/null", "cannot be written"),
        ("dead/out", "cannot be written"),
        ("x" * 256, "File name too long"),
        (f"missing/{'x' * 256}/out", "File name too long"),
        ("/proc", "cannot be written|cannot be replaced|is not replaced"),
        ("/proc/out", "cannot be written"),
        (".", "cannot be written|working folder|is not replaced"),
        ("..", "cannot be written|is not replaced"),
    ],
)
def test_a_path_that_cannot_be_an_output(
    path: str, reason: str, check: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dead").symlink_to("/proc/missing")
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(LhcnetError, match=reason):
        check(Path(path))
    assert tree(tmp_path) == before


def test_a_long_name_that_fits_is_written(tmp_path: Path) -> None:
    write(tmp_path / ("x" * 255))
    write(tmp_path / ("x" * 255))
    assert names(tmp_path) == ["x" * 255]


def test_the_empty_working_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LhcnetError, match="it is the working folder"):
        write(Path())


def test_too_little_room(check: Callable[[Path], object], tmp_path: Path) -> None:
    for call in (
        lambda: preflight.output_directory(tmp_path / "out", OWN, size=1 << 60),
        lambda: preflight.output_file(tmp_path / "out", None, size=1 << 60),
        lambda: preflight.shared_folder(tmp_path / "out", size=1 << 60),
    ):
        with pytest.raises(LhcnetError, match=r"out cannot be written; expected [\d,.]+ MB of free disk space"):
            call()
    check(tmp_path / "a" / "b" / "out")
    assert not list(tmp_path.iterdir()), "a check leaves nothing"


def test_outputs_that_contain_each_other(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a")
    for other in ("a", "a/b", ".", "link/c"):
        with pytest.raises(LhcnetError, match="one contains the other"):
            preflight.require_separate(tmp_path / "a", tmp_path / other)
        with pytest.raises(LhcnetError, match="one contains the other"):
            preflight.require_separate(tmp_path / "a", inputs=[tmp_path / "other", tmp_path / other])
    preflight.require_separate(tmp_path / "a", tmp_path / "ab", inputs=[tmp_path / "in", tmp_path / "in" / "in"])


def test_a_file_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    out, own = tmp_path / "out.json", OwnJson.having("version")
    for text in ("years of work", '{"scripts": {}}', "[]"):
        out.write_text(text)
        with pytest.raises(LhcnetError, match=r"out\.json is not replaced: it is a file of another kind"):
            preflight.output_file(out, own)
        assert out.read_text() == text
    for text in ("", '{"version": 1}'):
        out.write_text(text)
        preflight.output_file(out, own)


def test_a_folder_that_is_mounted_is_not_replaced(tmp_path: Path) -> None:
    at = tmp_path / "mounted here"
    at.mkdir()
    done = subprocess.run(["mount", "--bind", at, at], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine lets no test mount a folder: {done.stderr.strip()}")
    try:
        with pytest.raises(LhcnetError, match="it is a mount point; expected a folder below it"):
            write(at)
        write(at / "below")
    finally:
        subprocess.run(["umount", "-l", at], check=True)


# --- killed anywhere ---------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, os.path.dirname({test!r}))
from lhcnet.io import atomic
import test_outputs
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
{patch}
{call}
"""


def killed(patch: str, call: str) -> None:
    program = KILLED.format(test=__file__, patch=patch, call=call)
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


NO_EXCHANGE = "atomic.exchange = lambda *paths: False"
AFTER_EXCHANGE = "exchange = atomic.exchange; atomic.exchange = lambda *paths: exchange(*paths) and die()"
BETWEEN_RENAMES = f"{NO_EXCHANGE}; atomic._foreign_entry = die"
BEFORE_REMOVAL = f"{NO_EXCHANGE}; atomic.remove = die"


@pytest.mark.parametrize(
    ("patch", "stays"),
    [
        ("atomic._flush = die", "former"),
        ("atomic._swap = die", "former"),
        (AFTER_EXCHANGE, "new"),
        (BETWEEN_RENAMES, None),
        (BEFORE_REMOVAL, "new"),
    ],
)
def test_a_killed_run_leaves_an_output_and_the_next_run_cleans_up(
    patch: str, stays: str | None, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write(out, "former")
    killed(patch, f"test_outputs.write(Path({str(out)!r}))")
    assert len(names(tmp_path)) == 2
    assert stays is None or written(out) == stays
    preflight.output_directory(out, OWN)  # the next run, before its work
    assert names(tmp_path) == ["out"]
    assert written(out) == (stays or "former")


def test_a_killed_run_that_wrote_a_file(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    killed("atomic._flush = die", f"test_outputs.write_file(Path({str(out)!r}))")
    assert len(names(tmp_path)) == 1
    preflight.output_file(out, None)
    assert names(tmp_path) == []


def test_only_dead_copies_of_this_output_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept = [".out.backup", ".out.lhcnet-backup", ".out2.lhcnet-0123456789ab", ".out.0123456789ab", "out.former"]
    for name in kept:
        (tmp_path / name).mkdir()
    named_alike = tmp_path / ".out.lhcnet-0123456789ab"  # but with a file that is not ours
    named_alike.mkdir()
    (named_alike / "thesis.tex").write_text("years of work")
    (tmp_path / ".out.lhcnet-00000000000a").write_text("a file, and no folder")
    (tmp_path / ".out.lhcnet-00000000000b").symlink_to(".out.backup")
    dead = tmp_path / ".out.lhcnet-00000000000c"
    dead.mkdir()
    (dead / "own.json").write_text("{}")
    before = set(names(tmp_path))
    with atomic_directory(out, OWN) as folder:
        (folder / "own.json").write_text(json.dumps(MARKER))
        remove_leftovers(out, OWN)  # another run begins
        assert folder.is_dir(), "the copy of a run that is alive"
    assert set(names(tmp_path)) == before - {dead.name} | {"out"}


@pytest.fixture
def exchangeable(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange two paths")
    return tmp_path


def test_exchange(exchangeable: Path) -> None:
    assert [(exchangeable / name / "content").read_text() for name in ("a", "b")] == ["b", "a"]
    assert not exchange(exchangeable / "a", exchangeable / "missing")
    assert names(exchangeable) == ["a", "b"]


SIGNALLED = """
import signal, sys, time
from pathlib import Path
from lhcnet.io.atomic import atomic_directory, atomic_file
from lhcnet.runtime import exit_on_sigterm
sys.path.insert(0, {folder!r})
from test_outputs import OWN
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which the tests may run, ignores it
exit_on_sigterm()
with atomic_directory(Path("out"), OWN) as a, atomic_file(Path("out.json")) as b:
    (a / "own.json").write_text("half")
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_step_and_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    program = SIGNALLED.format(folder=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, failed = process.communicate()
    assert process.returncode == 128 + number
    assert failed == f"stopped by {number.name}\n"
    assert names(tmp_path) == []


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=sys.stdout)
print(child.pid, flush=True)
sys.stdin.read()
"""
CHILD = """
import signal, time
from lhcnet.runtime import end_with_parent
end_with_parent(signal.SIGKILL)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(child=CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = {process.stdout.readline(), process.stdout.readline()}
    assert "ready\n" in lines
    process.kill()
    process.wait()
    assert process.stdout.read() == "", "the pipe ends when the child, which holds it too, has ended"


def refusing(monkeypatch: pytest.MonkeyPatch, number: int, times: int) -> list[str]:
    """Let the folder refuse so many times with this error; returns a list that grows with each try."""
    tries: list[str] = []

    def room(*_: object, **__: object) -> None:
        tries.append("")
        if len(tries) <= times:
            raise preflight.cannot_write(Path("volume"), OSError(number, os.strerror(number))) from OSError(number, "x")

    monkeypatch.setattr(preflight, "require_room", room)
    monkeypatch.setattr(preflight, "_PAUSE", 0.01)
    return tries


def test_a_volume_that_does_not_answer_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = refusing(monkeypatch, errno.ESTALE, 2)
    preflight.await_folder(tmp_path, 60)
    assert len(tries) == 3
    assert caplog.text.count("waiting up to 60 s for its volume") == 1


def test_a_volume_that_never_answers_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, errno.EIO, 10**6)
    with pytest.raises(LhcnetError, match=r"for 0\.1 s: is its volume mounted, and does it answer"):
        preflight.await_folder(tmp_path, 0.1)


def test_a_volume_that_may_not_be_written_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = refusing(monkeypatch, errno.EACCES, 1)
    with pytest.raises(LhcnetError, match="cannot be written"):
        preflight.await_folder(tmp_path, 60)
    assert len(tries) == 1
