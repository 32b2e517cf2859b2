"""DVC stages, checkpoints and executions depend on the code that computes: no more, no less."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lhcnet import code_version
from lhcnet.code_version import PACKAGE, STEP_MODULES, code_digest, code_files, execution_name
from lhcnet.profiles import profile

ROOT = Path(__file__).parents[2]
SOURCE = "src/lhcnet"


def stages(file: Path) -> dict[str, dict[str, Any]]:
    """Stage -> its definition, of a dvc.yaml; paths are those from the root of the project."""
    found = {name: stage.get("do", stage) for name, stage in yaml.safe_load(file.read_text())["stages"].items()}
    for stage in found.values():
        stage["deps"] = [dep.removeprefix("../") for dep in stage["deps"]]
    return found


STAGES = [
    pytest.param(stage, id=f"{file}:{name}")
    for file in ("dvc.yaml", "standalone/dvc.yaml")
    for name, stage in stages(ROOT / file).items()
]


def missing_and_superfluous(stage: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Source files that a stage's step reaches without a dependency, and those it depends on without reaching them."""
    words = stage["cmd"].split()
    needed = {
        file.relative_to(PACKAGE).as_posix() for file in code_files(*STEP_MODULES[words[words.index("lhcnet") + 1]])
    }
    depended: set[str] = set()
    for dep in stage["deps"]:
        if dep.startswith(SOURCE):
            path = PACKAGE / Path(dep).relative_to(SOURCE)
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            depended |= {f.relative_to(PACKAGE).as_posix() for f in files if f.suffix != ".pyc"}
    depended = {file for file in depended if not file.endswith("__init__.py")}
    return needed - depended, depended - needed


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_its_step_computes_with(stage: dict[str, Any]) -> None:
    missing, superfluous = missing_and_superfluous(stage)
    assert not missing, f"add to deps: {', '.join(f'{SOURCE}/{file}' for file in sorted(missing))}"
    assert not superfluous, f"remove from deps: {', '.join(f'{SOURCE}/{file}' for file in sorted(superfluous))}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_removed_and_a_superfluous_dependency_are_noticed(stage: dict[str, Any]) -> None:
    for removed in (dep for dep in stage["deps"] if dep.startswith(SOURCE)):
        missing, superfluous = missing_and_superfluous(
            stage | {"deps": [dep for dep in stage["deps"] if dep != removed]}
        )
        assert missing, removed
        assert not superfluous
    missing, superfluous = missing_and_superfluous(stage | {"deps": [*stage["deps"], f"{SOURCE}/cli.py"]})
    assert (missing, superfluous) == (set(), {"cli.py"})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package that a test may edit."""
    copy = tmp_path / "lhcnet"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_version, "PACKAGE", copy)
    yield copy
    code_version._imported_files.cache_clear()


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)
    code_version._imported_files.cache_clear()


def test_a_new_import_is_reached_in_functions_too(package: Path) -> None:
    faces = package / "data" / "drawn_faces.py"
    assert faces not in code_files("steps.train")
    append(package / "training" / "loop.py", "\n\ndef added() -> None:\n    from lhcnet.data.drawn_faces import draw\n")
    assert faces in code_files("steps.train")


def test_imports_for_the_type_checker_are_not_followed(package: Path) -> None:
    faces = package / "data" / "drawn_faces.py"
    append(package / "training" / "loop.py", "\nif TYPE_CHECKING:\n    from lhcnet.data import drawn_faces\n")
    assert faces not in code_files("steps.train")


@pytest.mark.parametrize("edited", ["report/page.py", "tracking/journal.py", "cli.py", "data/drawn_faces.py"])
def test_code_that_computes_no_result_changes_no_digest(package: Path, edited: str) -> None:
    def digests() -> tuple[str, str]:
        return code_digest("steps.fit_model"), execution_name(profile("demo"))

    before = digests()
    append(package / edited, "# a comment\n")
    assert digests() == before


def test_code_that_computes_changes_checkpoints_and_executions(package: Path) -> None:
    checkpoint, execution = code_digest("steps.fit_model"), execution_name(profile("demo"))
    append(package / "models" / "lhc.py", "# a comment\n")
    assert code_digest("steps.fit_model") != checkpoint
    assert execution_name(profile("demo")) != execution


def test_an_edited_report_runs_its_comparison_again_and_nothing_else(package: Path) -> None:
    before = {step: code_digest(*entries) for step, entries in STEP_MODULES.items()}
    append(package / "report" / "page.py", "# a comment\n")
    changed = {step for step, entries in STEP_MODULES.items() if code_digest(*entries) != before[step]}
    assert changed == {"compare", "compare-standalone"}


def test_the_init_of_a_room_holds_a_docstring_and_imports_only() -> None:
    """They are no dependencies, so nothing may be computed there."""
    rooms = {file.parent for entries in STEP_MODULES.values() for file in code_files(*entries)} - {PACKAGE}
    for file in (room / "__init__.py" for room in rooms):
        for node in ast.parse(file.read_text()).body:
            is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            assert isinstance(node, ast.Expr | ast.ImportFrom) or is_all, file
