"""Two runs that write the same directories at once: each succeeds, and the last output stays, complete."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lhcnet.data.drawn_faces import draw
from lhcnet.data.store import open_store, write_stores
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_directory
from lhcnet.io.contents import OwnFolder, OwnJson
from lhcnet.steps.scored_splits import ScoredSplits

OWN = OwnFolder("marker", OwnJson.having("written"), frozenset({"marker", "same"}))
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
                with atomic_directory(tmp_path / "out", OWN) as folder:
                    for name in ("marker", "same"):
                        (folder / name).write_text(f'{{"written": "{number} {turn}"}}')
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

    def replaced_meanwhile(folder: Path) -> list[str]:
        if folder != out:
            return listed(folder)
        monkeypatch.setattr(os, "listdir", listed)
        out.rename(tmp_path / "former")
        (tmp_path / "former" / "marker").unlink()
        out.mkdir()
        (out / "marker").write_text('{"written": "theirs"}')
        return listed(tmp_path / "former")

    out.mkdir()
    (out / "marker").write_text('{"written": "before"}')
    (out / "same").touch()
    monkeypatch.setattr(os, "listdir", replaced_meanwhile)
    with atomic_directory(out, OWN) as folder:
        (folder / "marker").write_text('{"written": "mine"}')
    assert (out / "marker").read_text() == '{"written": "mine"}'


def test_of_stores_of_two_runs_none_is_mixed_with_the_other(tmp_path: Path) -> None:
    write_stores(draw(60, seed=1), tmp_path / "a", tmp_path / "b")
    write_stores(draw(60, seed=2), tmp_path / "c", tmp_path / "d")
    with pytest.raises(LhcnetError, match=r"d: is of data .*, but .*a of"):
        ScoredSplits.open(tmp_path / "a", tmp_path / "d")
