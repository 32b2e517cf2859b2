"""The reliability campaigns of docs/reliability.md, by one command.

python benchmarks/campaign.py all                  # every campaign: about an hour on two idle cores
python benchmarks/campaign.py all --share 0.02     # the same, shortened: some minutes
python benchmarks/campaign.py fuzz zip --runs 500  # one campaign; `--help` after its name lists the options

fuzz: damaged and hostile inputs for every reader. kills: trainings killed at random moments. kubeflow: a whole pipeline
whose trainings are killed. outages: an MLflow that is down, hangs or dies. Exit status 1 if anything went wrong. Short
forms of all of them are in tests/robustness and tests/unit/training/test_checkpoint.py.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import fuzz
import kills
import outages
import typer


def as_written(text: str | None) -> str:
    """A help text whose lines click does not join."""
    return (text or "").replace("\n\n", "\n\n\b\n")


app = typer.Typer(help=as_written(__doc__), rich_markup_mode=None, no_args_is_help=True, add_completion=False)
app.command("fuzz", help=as_written(fuzz.__doc__))(fuzz.main)
app.command("kills", help=as_written(kills.__doc__))(kills.main)
app.command("outages", help=as_written(outages.__doc__))(outages.main)

CAMPAIGNS: Mapping[str, Callable[[float], list[str]]] = {  # name -> arguments for a share of the whole campaign
    "fuzz": lambda share: ["fuzz", "--share", str(share)],
    "kills": lambda share: ["kills", "--kills", str(max(1, round(share * kills.KILLS)))],
    "kubeflow": lambda share: ["kills", "--kubeflow"],
    "outages": lambda share: ["outages", "--times", str(max(1, round(share * outages.TIMES)))],
}


@app.command("all")
def run_all(
    share: Annotated[float, typer.Option(help="Of each campaign; the one through Kubeflow always runs whole.")] = 1.0,
    without: Annotated[list[str] | None, typer.Option(help=f"Leave out one of {', '.join(CAMPAIGNS)}.")] = None,
) -> None:
    """Run every campaign, each in a process of its own, and say which failed."""
    if unknown := sorted(set(without or ()) - set(CAMPAIGNS)):
        raise SystemExit(f"no campaign {', '.join(unknown)}; expected some of {', '.join(CAMPAIGNS)}")
    failed = []
    for name, arguments in CAMPAIGNS.items():
        if name in (without or ()):
            continue
        print(f"\n== {name} ==", flush=True)
        if subprocess.run([sys.executable, str(Path(__file__)), *arguments(share)], check=False).returncode:
            failed.append(name)
    print(f"\nfailed: {', '.join(failed) or 'none'}")
    raise typer.Exit(bool(failed))


if __name__ == "__main__":
    app()
