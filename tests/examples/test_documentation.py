"""Commands and files that README and the documentation name exist."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML
from support.drivers import ROOT

from lhcnet.cli import app

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^```\w*\n(.*?)^```|`([^`\n]+)`", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"^[\w.-]+/[\w./-]+\.(py|yaml|md|j2|lock|cff)$")
BASES = (ROOT, ROOT / "src" / "lhcnet", ROOT / "docs")


def documented() -> list[tuple[str, list[str]]]:
    """(page, words) of every command: lines of code blocks, and code within sentences."""
    found = []
    for page in PAGES:
        for block, inline in CODE.findall(page.read_text(encoding="utf-8")):
            for line in (block or inline).replace("\\\n", " ").splitlines():
                for command in re.split(r" && |; | \| ", line.partition(" #")[0]):
                    found.append((page.relative_to(ROOT).as_posix(), command.split()))
    return found


def test_commands_and_options_of_lhcnet_exist() -> None:
    seen = set()
    for page, words in documented():
        if words[:1] != ["lhcnet"] or words[1:2] in ([], ["..."], ["COMMAND"]):
            continue
        command: Any = typer.main.get_command(app)
        for position, word in enumerate(words[1:], 1):
            if word.startswith("-") or not hasattr(command, "commands"):
                options = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
                unknown = [w for w in words[position:] if w.startswith("--") and w not in options]
                assert not unknown, f"{page}: {' '.join(words)}: no option {', '.join(unknown)}"
                break
            if word == "...":
                break
            assert word in command.commands, f"{page}: {' '.join(words)}: no command {word}"
            command = command.commands[word]
        seen.add(command.name)
    assert {"profile", "check", "faces", "evaluate", "replay", "local", "submit"} <= seen


def test_files_exist() -> None:
    named = {
        (page, word)
        for page, words in documented()
        for word in words
        if FILE.match(word) and not word.startswith(("artifacts/", "build/"))  # written by users' commands
    }
    missing = [f"{page}: {word}" for page, word in named if not any((base / word).exists() for base in BASES)]
    assert not missing
    assert len(named) > 50


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {(page, words[1]) for page, words in documented() if words[:1] == ["make"] and len(words) > 1}
    assert not [f"{page}: make {target}" for page, target in named if target not in targets]
    assert len(named) > 5


def test_stages_of_dvc_exist() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = {
        (page, name)
        for page, words in documented()
        if words[:2] == ["dvc", "repro"]
        for name in words[2:]
        if not name.startswith("-")
    }
    assert not [f"{page}: {name}" for page, name in named if name not in stages and not (ROOT / name).is_file()]
    assert len(named) > 5


@pytest.mark.parametrize("variable", ["LHCNET_JOURNAL", "LHCNET_TRACKING_WAIT", "LHCNET_EXECUTION", "LHCNET_CACHE"])
def test_environment_variables_are_read_by_the_code(variable: str) -> None:
    assert any(variable in page.read_text(encoding="utf-8") for page in PAGES)
    assert any(variable in file.read_text(encoding="utf-8") for file in (ROOT / "src").rglob("*.py"))
