"""A short fuzzing campaign against every reader, and tests of its harness: each kind of violation is noticed.

The whole campaign is `python benchmarks/campaign.py fuzz`; tests/support/hostile says what is tried.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from support import hostile
from support.hostile import TARGETS, one
from support.hostile.choices import Choices, Wrong, altered_json, answer
from support.hostile.tables import ROWS, check_faces, faces_of

from lhcnet.errors import LhcnetError

ROOT = Path(__file__).parents[2]


def test_campaign(tmp_path: Path) -> None:
    program = ROOT / "benchmarks" / "campaign.py"
    options = ["fuzz", "--share", "0.01", "--seed", "1", "--patience", "120", "--folder", tmp_path / "work"]
    done = subprocess.run([sys.executable, program, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-9000:] + done.stderr[-3000:]
    print(done.stdout)
    assert "1,165 inputs, 0 violations" in done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_unaltered_inputs_are_accepted(target: str, tmp_path: Path) -> None:
    hostile.load(target, tmp_path / "input")
    assert one(target, b"", tmp_path / "input")


def test_the_same_decisions_alter_in_the_same_way() -> None:
    """Also after others: what one input puts in and alters again is its own."""
    content = b'{"a": {"b": [1, 2], "c": 3}, "d": [4, {"e": null}]}'
    drawn = random.Random(0)
    decisions = [drawn.randbytes(24) for _ in range(5000)]
    forward = [altered_json(Choices(data), content) for data in decisions]
    backward = [altered_json(Choices(data), content) for data in reversed(decisions)]
    assert forward == backward[::-1]


# --- the harness -------------------------------------------------------------------------------------------


def refuse(text: str, cause: Exception | None = None) -> None:
    raise LhcnetError(text) from cause


def warn() -> None:
    warnings.warn("careful", stacklevel=1)


VIOLATIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another exception": (lambda _: {}["key"], "'key'"),
    "a file not named": (lambda _: answer(lambda: refuse("it is wrong"), "fer.csv"), "names fer.csv"),
    "memory": (lambda _: answer(lambda: refuse("fer.csv", MemoryError()), "fer.csv"), "took all memory"),
    "much memory": (lambda _: bytearray(b"x") * (8 * hostile.MEMORY), r"took \d+ MB"),
    "a warning": (lambda _: exec("import warnings; warnings.warn('careful')"), "careful"),
    "a file outside": (lambda folder: (folder / "canary").mkdir(), "wrote elsewhere"),
    "partial output": (lambda folder: (folder / "out" / "half").mkdir(), "wrote something"),
    "other faces": (lambda _: check_faces(faces_of(ROWS * 2), same=True), "something else"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violations_are_noticed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    do, says = VIOLATIONS[name]
    monkeypatch.setattr(hostile, "TARGETS", {"csv": lambda _, folder: bool(do(folder))})
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory is counted anew: other tests had a higher one
    with pytest.raises((Wrong, KeyError), match=says):
        one("csv", b"x", tmp_path / "input")


PROGRAM = """
import ctypes, sys, time
from pathlib import Path
sys.path[:0] = [{benchmarks!r}]
import fuzz
from support import hostile
fuzz.SECONDS = 1
def wrong(choices, folder):
    if choices.raw(1):
        {does}
    return True
hostile.TARGETS = {{"csv": wrong}}
fuzz.child("csv", Path({work!r}), 2, 0, "random")
"""


@pytest.mark.parametrize(
    ("does", "dies"),
    [("time.sleep(60)", True), ("ctypes.string_at(1)", True), ("bytearray(3 << 30)", False), ("print(1 / 0)", False)],
)
def test_hangs_crashes_and_memory_are_caught(does: str, dies: bool, tmp_path: Path) -> None:
    work = tmp_path / "csv"
    work.mkdir()
    (work / "now").write_bytes(bytes(16))
    program = PROGRAM.format(benchmarks=str(ROOT / "benchmarks"), work=str(work), does=does)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, env=dict(os.environ))
    assert (done.returncode != 0) == dies, done.stderr
    if dies:
        assert len((work / "now").read_bytes()) > 16  # the input that it died of
    else:
        assert len(list((tmp_path / "found").glob("csv-*.txt"))) == 1
