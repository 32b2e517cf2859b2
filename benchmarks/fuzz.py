"""Fuzzing of every reader: the answer to a hostile input is the right value or one clean error.

python benchmarks/campaign.py fuzz                        # ten minutes of one core
python benchmarks/campaign.py fuzz zip model --runs 5000  # some readers
python benchmarks/campaign.py fuzz --engine atheris --patience 60  # guided by coverage (pip install -e '.[fuzz]')
python benchmarks/campaign.py fuzz --repeat FILE          # one input that caused a violation

Inputs and checks are in tests/support/hostile. A child process runs the inputs of one reader, with a limit on memory
and on the time of each input; if it dies, the input is saved and another child continues. Exit status 1 if there is a
violation.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

SECONDS = 10.0  # for one input
ROOM = 2 << 30  # bytes of address space beyond what the libraries take
LONGEST = 96  # bytes of decisions
HEAD = struct.Struct("<QQ")  # how many inputs were run, and accepted
RUNS = {
    "csv": 30_000, "csv-icml": 22_000, "competition": 2_000, "zip": 14_000, "folder": 3_500, "prepare": 1_000,
    "store": 16_000, "params": 1_200, "model": 1_000, "keras": 700, "checkpoint": 10_000, "prediction": 600,
    "artifacts": 3_000, "tables": 1_500, "resumed": 10_000,
}  # fmt: skip


class Child:
    """Runs inputs in this process; the file `now` holds the counts and the input that is being run."""

    def __init__(self, target: str, work: Path) -> None:
        from support import hostile

        hostile.load(target, work / "input")
        self.run_one, self.target, self.work = hostile.one, target, work
        self.now = (work / "now").open("r+b", buffering=0)
        self.runs, self.accepted = HEAD.unpack(self.now.read(HEAD.size))

    def limit(self) -> None:
        """Limit the memory; called once everything is loaded."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def __call__(self, data: bytes) -> None:
        data = data[:LONGEST]
        self.now.seek(0)
        self.now.write(HEAD.pack(self.runs, self.accepted) + data)
        self.now.truncate()
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            self.accepted += self.run_one(self.target, data, self.work / "input")
        except Exception:
            keep(self.work, self.target, data, traceback.format_exc())
        faulthandler.cancel_dump_traceback_later()
        self.runs += 1


def corpus(target: str, folder: Path, seed: int) -> Path:
    """The folder of first inputs, drawn as by the random engine; atheris adds inputs that reach new code."""
    if not folder.exists():
        folder.mkdir()
        drawn = random_inputs(target, seed)
        for number in range(50):
            (folder / str(number)).write_bytes(next(drawn))
    return folder


def random_inputs(target: str, seed: int) -> Iterator[bytes]:
    drawn = random.Random(f"{target}/{seed}")
    while True:
        yield drawn.randbytes(drawn.randint(4, LONGEST))


def keep(work: Path, target: str, data: bytes, why: str) -> None:
    """Save an input for --repeat, once for each kind: last lines of the traceback and the exception."""
    lines = [line.strip() for line in why.splitlines() if line.strip()]
    frames = [line for line in lines if line.startswith("File ")]
    kind = hashlib.sha256("".join([target, *frames[-2:], lines[-1][:40]]).encode()).hexdigest()[:12]
    file = work.parent / "found" / f"{target}-{kind}"
    file.parent.mkdir(exist_ok=True)
    if not file.exists():
        file.write_bytes(data)
        file.with_suffix(".txt").write_text(why)
    with (file.parent / "count").open("a") as count:
        count.write(f"{file.name}\n")


def child(target: str, work: Path, runs: int, seed: int, engine: str) -> None:
    """Run the inputs of one reader in this process."""
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["lhcnet"]):
            run = Child(target, work)
            run.limit()
        options = [
            f"-runs={runs}",
            f"-seed={seed}",
            f"-max_len={LONGEST}",
            "-len_control=0",  # otherwise thousands of inputs have four bytes
            "-rss_limit_mb=0",
            f"-timeout={24 * 3600}",  # our own limit is used; 0 would end inputs at random
            str(corpus(target, work / "corpus", seed)),
        ]
        atheris.Setup([sys.argv[0], *options], run)
        atheris.Fuzz()  # does not come back
    run = Child(target, work)
    run.limit()
    drawn = random_inputs(target, seed)
    while run.runs < runs:
        run(next(drawn))
    run.now.seek(0)
    run.now.write(HEAD.pack(run.runs, run.accepted))


def campaign(target: str, folder: Path, runs: int, seed: int, engine: str) -> dict[str, str | int]:
    """Run the inputs of one reader in child processes.

    Returns:
        number of inputs, how many were accepted, seconds, and with atheris the branches that were reached.
    """
    work = folder / target
    work.mkdir()
    now, printed = work / "now", work / "printed"
    now.write_bytes(HEAD.pack(0, 0))
    start, deaths, branches = time.perf_counter(), 0, 0
    while True:
        done, accepted = HEAD.unpack(now.read_bytes()[: HEAD.size])
        if done >= runs:
            seconds = round(time.perf_counter() - start)
            row = {"reader": target, "inputs": done, "accepted": accepted, "seconds": seconds}
            return row | ({"branches": branches} if branches else {})
        left = runs if engine == "random" else runs - done  # the random engine goes on counting in `now`
        options = {"folder": work, "runs": left, "seed": seed + deaths, "engine": engine, "patience": SECONDS}
        arguments = ["--child", target, *(f"--{name}={value}" for name, value in options.items())]
        with printed.open("wb") as file:
            ended = subprocess.run(
                [sys.executable, __file__, *arguments],
                stdout=subprocess.DEVNULL,
                stderr=file,
                env=os.environ | {"TMPDIR": str(work), "OMP_NUM_THREADS": "1"},
                check=False,
            ).returncode
        reached = re.findall(rb" cov: (\d+)", printed.read_bytes())
        branches = max(branches, *map(int, reached)) if reached else branches
        content = now.read_bytes()
        done, accepted = HEAD.unpack(content[: HEAD.size])
        if ended:
            deaths += 1
            why = f"the process ended with {ended}\n{printed.read_text(errors='replace')[-3000:]}\n{ended}"
            if deaths > 20:
                raise SystemExit(f"{target}: a child dies again and again:\n{why}")
            keep(work, target, content[HEAD.size :], why)
            done += 1
        elif engine == "atheris":
            done = runs
        now.write_bytes(HEAD.pack(done, accepted))


def main(
    targets: Annotated[list[str] | None, typer.Argument(help=f"Some of {', '.join(RUNS)}; default: all.")] = None,
    runs: Annotated[int, typer.Option(help="Inputs for each reader; default: as in the campaign.")] = 0,
    seed: int = 0,
    engine: Annotated[str, typer.Option(help="random, or atheris: guided by coverage.")] = "random",
    share: Annotated[float, typer.Option(help="Share of the campaign's inputs.")] = 1.0,
    folder: Annotated[Path | None, typer.Option(help="For temporary files, on a fast disk; default: memory.")] = None,
    repeat: Annotated[Path | None, typer.Option(help="A saved input that caused a violation.")] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds for an input; coverage makes it many times slower.")
    ] = SECONDS,
    child_: Annotated[str, typer.Option("--child", hidden=True)] = "",
) -> None:
    """Run the campaign, or repeat one input."""
    global SECONDS
    SECONDS = patience
    if child_ and folder:
        child(child_, folder, runs, seed, engine)
        return
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    if folder:
        folder.mkdir(exist_ok=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix="lhcnet-fuzz-", dir=memory))
    if repeat is not None:
        from support import hostile

        target = repeat.name.rpartition("-")[0]
        hostile.load(target, folder / "input")
        accepted = hostile.one(target, repeat.read_bytes(), folder / "input")
        print(f"{target}: {'accepted' if accepted else 'refused'} (what was read is in {folder})")
        return
    if unknown := sorted(set(targets or ()) - set(RUNS)):
        raise SystemExit(f"no reader {', '.join(unknown)}; expected some of {', '.join(RUNS)}")
    total = 0
    for target in targets or RUNS:
        row = campaign(target, folder, runs or int(share * RUNS[target]), seed, engine)
        total += int(row["inputs"])
        print(json.dumps(row), flush=True)
    found = sorted((folder / "found").glob("*.txt"))
    counted = (folder / "found" / "count").read_text().split() if found else []
    for file in found:
        print(f"\n{counted.count(file.stem)} x {file.with_suffix('')}:\n{file.read_text()}")
    print(f"{total:,} inputs, {len(counted):,} violations of {len(found)} kinds")
    if found:
        raise typer.Exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
