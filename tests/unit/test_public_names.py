"""The public names of the package: what they load, and that the examples in their docstrings run."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest

import lhcnet

PUBLIC = [name for name in lhcnet.__all__ if not name.startswith("__")]


@pytest.mark.parametrize("name", [None, *PUBLIC])
def test_examples_in_docstrings_run(name: str | None) -> None:
    examples = doctest.DocTestFinder(recurse=False).find(lhcnet if name is None else getattr(lhcnet, name))
    assert sum(len(example.examples) for example in examples) > 0
    for example in examples:
        assert doctest.DocTestRunner().run(example).failed == 0


def loaded(code: str) -> set[str]:
    """Modules in a new Python process after this code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_no_torch() -> None:
    modules = loaded("import lhcnet; lhcnet.__version__; dir(lhcnet)")
    assert not {"torch", "numpy", "pydantic", "lhcnet.models"} & modules


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_loads_no_settings_and_torch_only_for_a_network(name: str) -> None:
    modules = loaded(f"from lhcnet import {name}")
    assert ("torch" in modules) == (name in ("LHC", "LHCNet", "insert_lhc"))
    assert not {"pydantic", "mlflow", "kfp", "sympy", "lhcnet.config", "lhcnet.steps"} & modules


def test_public_names_are_listed_and_others_are_errors() -> None:
    assert set(lhcnet.__all__) <= set(dir(lhcnet))
    with pytest.raises(AttributeError, match="module 'lhcnet' has no attribute 'LCH'"):
        _ = lhcnet.LCH
