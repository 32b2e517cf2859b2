"""Compare the results of two executions of the pipeline.

Reads the folders that `lhcnet compare` wrote: `artifacts/report` after `dvc repro`,
`runs/<date>/<name>/compare/report` after `lhcnet pipeline local`.

python examples/compare_executions.py FIRST SECOND
"""

import argparse
import json
from pathlib import Path

import pandas as pd


def read_summary(folder: Path) -> pd.Series:
    """The figures in `summary.json`, one a row; an interval becomes two rows."""
    figures: dict[str, object] = {}
    for name, value in json.loads((folder / "summary.json").read_text(encoding="utf-8")).items():
        if isinstance(value, list):
            figures |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        else:
            figures[name] = value
    return pd.Series(figures, dtype=object)


def read_digest(folder: Path) -> str:
    """Digest of the selected and scored models, from `statistics.json`."""
    return str(json.loads((folder / "statistics.json").read_text(encoding="utf-8"))["metrics_digest"])


def compare(first: Path, second: Path) -> pd.DataFrame:
    """One row a figure: both values, and second minus first where they are numbers."""
    table = pd.DataFrame({"first": read_summary(first), "second": read_summary(second)})
    numbers = table.apply(pd.to_numeric, errors="coerce")
    table["second - first"] = numbers["second"] - numbers["first"]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    args = parser.parse_args()
    table = compare(args.first, args.second)
    print(table.to_string(na_rep="-"))
    if read_digest(args.first) == read_digest(args.second):
        print("Equal digests: both executions selected and scored the same models with the same results.")


if __name__ == "__main__":
    main()
