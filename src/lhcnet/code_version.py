"""Which source files a step computes with: one answer for DVC's dependencies, checkpoints, executions and caches.

The files are found by following import statements through the package, those inside functions too. Code that only
records, shows or parses arguments is left out: editing a report neither restarts a training nor renames an execution.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lhcnet.config import Config

PACKAGE = Path(__file__).parent
NOT_COMPUTING = ("tracking", "report", "cli", "code_version")  # rooms and modules
STEP_MODULES = {
    "prepare": ("steps.prepare",),
    "start-weights": ("steps.start_weights",),
    "train": ("steps.train",),
    "insert": ("steps.insert",),
    "select": ("steps.select",),
    "control": ("steps.control",),
    "evaluate": ("steps.evaluate",),
    "analyse": ("steps.analyse",),
    "compare": ("steps.compare", "report"),  # its result is the report
    "register": ("steps.register", "serving"),  # the registered model computes with it
    "compare-standalone": ("steps.compare_standalone", "report"),
    "train-inserted": ("steps.insert", "steps.train"),
}
"""Step -> the modules and rooms it starts from, relative to the package.

The steps are named as on the command line; `train-inserted` is of Kubeflow's graph alone (`insert`, then `train`).
"""


def code_files(*entries: str) -> list[Path]:
    """Source files that the entries compute with.

    Args:
        entries: modules (`steps.train`) and rooms (`report`: all its modules), relative to the package.

    Returns:
        Sorted paths below `PACKAGE`: modules, and data files named after a module (`parameter_counts.csv` and
        `parameter_counts.py`). Not the `__init__.py` of a room: it holds a docstring and re-exports, nothing else.
    """
    left_out = set(NOT_COMPUTING) - set(entries)
    found: set[Path] = set()
    waiting = [file for entry in entries for file in _module_files(entry)]
    while waiting:
        file = waiting.pop()
        if file not in found and file.relative_to(PACKAGE).parts[0].removesuffix(".py") not in left_out:
            found.add(file)
            waiting += _imported_files(file)
    return sorted(found | {data for file in found for data in file.parent.glob(f"{file.stem}.*") if data.is_file()})


def code_digest(*entries: str) -> str:
    """SHA-256 (hex) of the names and contents of `code_files`."""
    hashed = hashlib.sha256()
    for file in code_files(*entries):
        hashed.update(file.relative_to(PACKAGE).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return hashed.hexdigest()


def step_digest(step: str) -> str:
    """Digest (hex) of the code that a step of `STEP_MODULES` computes with."""
    return code_digest(*STEP_MODULES[step])


def execution_name(config: Config) -> str:
    """Name of a pipeline execution in MLflow, the same for all its steps.

    It is the profile and a digest of the settings and of the code that computes (`code_digest` of all steps
    without their reports). The environment variable LHCNET_EXECUTION, which a pipeline sets for its tasks, wins.
    """
    if name := os.environ.get("LHCNET_EXECUTION"):
        return name
    entries = {entry for entries in STEP_MODULES.values() for entry in entries if entry not in NOT_COMPUTING}
    digest = hashlib.sha256((config.digest() + code_digest(*sorted(entries))).encode()).hexdigest()
    return f"{config.profile}-{digest[:8]}"


def _module_files(name: str) -> list[Path]:
    """Files of a module, or of all modules of a room."""
    path = PACKAGE / name.replace(".", "/")
    if path.is_dir():
        return sorted(set(path.rglob("*.py")) - {path / "__init__.py"})
    return [path.with_suffix(".py")]


@cache
def _imported_files(file: Path) -> list[Path]:
    """Modules of the package that a file imports."""
    found: set[Path] = set()
    for name in _imported_names(_statements(ast.parse(file.read_bytes()).body)):
        module = PACKAGE / name.replace(".", "/")
        candidates = (module.with_suffix(".py"), module.parent.with_suffix(".py"))  # a module; a name in a module
        found |= {candidate for candidate in candidates if candidate.is_file()}
    return sorted(found)


def _imported_names(statements: Iterable[ast.AST]) -> Iterator[str]:
    """Dotted names relative to the package: `models.lhc` and `models.lhc.LHC` for one statement."""
    for statement in statements:
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            names = [f"{statement.module}.{alias.name}" for alias in statement.names]
        else:
            continue
        yield from (name.removeprefix("lhcnet.") for name in names if name.startswith("lhcnet."))


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All statements, in functions and classes too, but not what only a type checker reads."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from _statements(node.orelse)
            continue
        yield node
        yield from _statements(ast.iter_child_nodes(node))
