"""The command line: its help, its errors, and the commands that no driver calls."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from support.drivers import ROOT
from typer.testing import CliRunner

from lhcnet import __version__ as lhcnet_version
from lhcnet import steps
from lhcnet.cli import app, model_folders
from lhcnet.config import Config, load
from lhcnet.data.sources import read
from lhcnet.errors import LhcnetError
from lhcnet.profiles import profile, to_yaml
from lhcnet.saved import SavedModel

runner = CliRunner()
PYTHONPATH = f"{ROOT}{os.pathsep}{ROOT / 'src'}"


def lhcnet(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from lhcnet.cli import main; main()", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )


def test_profile_prints_a_complete_params_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    command = ["profile", "cpu", "--set", "stage4.patience=2", "--set", "seeds.a=[3, 4]"]
    file = tmp_path / "params.yaml"
    printed = runner.invoke(app, command)
    assert printed.exit_code == 0
    assert runner.invoke(app, [*command, "--out", str(file)]).output == ""
    assert file.read_text() == printed.stdout
    assert load(file) == profile("cpu", {"stage4.patience": 2, "seeds.a": [3, 4]})


@pytest.mark.parametrize(
    ("name", "change", "has", "expected"),
    [
        ("cpu", [], "amx_bf16", "bfloat16"),
        ("cpu", [], "avx512_bf16", "bfloat16"),
        ("cpu", [], "avx512_bw", "float32"),
        ("cpu", ["--set", "compute.precision=float32"], "amx_bf16", "float32"),
        ("cpu", ["--set", "compute.device=cuda"], "amx_bf16", "float32"),
        ("cpu_imagenet", [], "amx_bf16", "float32"),
        ("paper", [], "amx_bf16", "float32"),
    ],
)
def test_a_profile_has_the_precision_that_pays_on_this_processor(
    name: str, change: list[str], has: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {has: True, "amx_tile": False})
    assert f"precision: {expected}," in runner.invoke(app, ["profile", name, *change]).stdout


def test_a_profile_has_a_line_for_each_innermost_mapping() -> None:
    printed = runner.invoke(app, ["profile", "cpu_imagenet"]).stdout
    assert "bn_momentum: 0.1, weights: imagenet}\n" in printed


def test_a_wrong_profile_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("mine")
    for arguments in (["gpu"], ["demo", "--set", "stage4.patience=-1"], ["demo", "--set", "stage4.patience"]):
        assert runner.invoke(app, ["profile", *arguments, "--out", str(file)]).exit_code == 1
    assert file.read_text() == "mine"


def test_faces_writes_both_shapes_of_the_same_pixels(tmp_path: Path) -> None:
    for name in ("faces.zip", "faces.csv"):
        assert runner.invoke(app, ["faces", str(tmp_path / name), "--images", "250"]).exit_code == 0
    assert read(tmp_path / "faces.zip").digest == read(tmp_path / "faces.csv").digest


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["profile", "gpu"], "profile 'gpu' is unknown: expected one of paper, cpu, cpu_imagenet, gpu_modern, demo"),
        (["profile", "demo", "--set", "stage4.patience=-1"], "stage4.patience"),
        (["check"], "params.yaml: cannot be read as configuration"),
        (["faces", "faces.txt"], "faces.txt: expected a name that ends in .zip or .csv"),
        (["show", "nothing"], "nothing: expected"),
        (["train", "trainval", "out", "--stage", "2"], "stages 2-4 need --start"),
        (["train", "trainval", "out", "--stage", "1", "--start", "m"], "stage 1 trains a new network"),
        (["train", "trainval", "out", "--stage", "4", "--start", "m", "--standalone", "wide"], "ends with stage 3"),
        (["insert", "model", "out"], "expected one of --variant"),
        (["pipeline", "compile", "--profile", "gpu"], "profile 'gpu' is unknown"),
        (["pipeline", "compile", "--params", "a", "--profile", "b"], "not both"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_1(arguments: list[str], says: str, tmp_path: Path) -> None:
    if arguments != ["check"]:
        (tmp_path / "params.yaml").write_text(to_yaml(profile("demo")))
    result = lhcnet(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_bad_data_through_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("emotion,pixels,Usage\n7," + " ".join(["0"] * 2304) + ",Training\n")
    params = runner.invoke(app, ["profile", "demo", "--set", "data.source=raw.csv"]).stdout
    (tmp_path / "params.yaml").write_text(params)
    result = lhcnet("prepare", "trainval", "test", "report.json", cwd=tmp_path)
    assert result.returncode == 1
    assert "raw.csv" in result.stderr
    assert "line 2" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["params.yaml", "raw.csv"]


def test_dvc_reads_paths_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text(to_yaml(profile("demo", {"data.source": "s3://bucket/faces.zip"})))
    monkeypatch.setenv("DVC_STAGE", "prepare")
    result = lhcnet("prepare", "trainval", "test", "report.json", cwd=tmp_path)
    assert result.returncode == 1
    assert "s3://bucket/faces.zip: expected a path when DVC runs the step: `dvc import-url URL" in result.stderr


def test_model_folders_follow_the_configured_seeds(tiny: Config) -> None:
    folders = [str(path) for path in model_folders(tiny, Path("x"), "ABC")]
    assert folders == ["x/a/seed-0", "x/a/seed-1", "x/b/wide", "x/b/narrow", "x/c/seed-1", "x/c/seed-2"]
    with pytest.raises(LhcnetError, match="letters of ABC"):
        model_folders(tiny, Path("x"), "AD")


@pytest.mark.parametrize("group", [[], ["pipeline"], ["tracking"]])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_fits_on_a_terminal(group: list[str], option: str) -> None:
    result = runner.invoke(app, [*group, option], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    commands = result.stdout.partition("Commands:")[2]
    assert commands
    assert "..." not in commands


def test_every_command_and_option_has_a_help_text() -> None:
    def check(command: Any, name: str) -> int:
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"
        inner = getattr(command, "commands", {})
        return 1 + sum(check(found, f"{name} {key}") for key, found in inner.items())

    assert check(typer.main.get_command(app), "lhcnet") > 20


def test_version() -> None:
    assert runner.invoke(app, ["--version"]).stdout == f"lhcnet {lhcnet_version}\n"


def test_the_shell_completes_commands() -> None:
    environment = {"_LHCNET_COMPLETE": "complete_bash", "COMP_WORDS": "lhcnet compare", "COMP_CWORD": "1"}
    completed = runner.invoke(app, [], prog_name="lhcnet", env=environment)
    assert completed.stdout.split() == ["compare", "compare-standalone"]


def test_windows_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """As on Windows: no fcntl."""
    program = """
import sys
import typer  # a package that runs on Windows
sys.platform, sys.modules["fcntl"] = "win32", None
from lhcnet.cli import main
main()
"""
    result = subprocess.run(
        [sys.executable, "-c", program, "check"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 1
    assert "WSL 2" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("loaded", "heavy"),
    [
        ("lhcnet.cli", ["pipeline", "components", "torch", "pydantic", "ruamel.yaml", "numpy"]),
        ("lhcnet.cli", ["pandas", "rich", "mlflow", "kfp", "dvc"]),
        ("lhcnet.report, lhcnet.report.tables, lhcnet.report.analysis_plots", ["torch", "torchvision", "mlflow"]),
        ("lhcnet.steps", ["torch", "torchvision", "pandas", "sklearn", "matplotlib", "mlflow", "kfp", "dvc"]),
    ],
)
def test_imports_load_nothing_heavy(loaded: str, heavy: list[str], tmp_path: Path) -> None:
    program = f"import sys, {loaded}\nprint([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.strip() == "[]"


@pytest.fixture
def model(backbone: SavedModel, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained model directory; the working directory has its params.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(to_yaml(tiny))
    return backbone.path


def test_evaluate_scores_one_model_with_and_without_tta(
    model: Path, stores: tuple[Path, Path], tiny: Config, context: steps.RunContext
) -> None:
    where = ["--trainval", str(stores[0]), "--test", str(stores[1])]
    result = runner.invoke(app, ["evaluate", "--weights", str(model), *where, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    scores = steps.evaluate_weights(model, *stores, evaluation=tiny.evaluation, context=context)
    assert list(scores) == [f"{s}{tta}" for tta in ("", "_tta") for s in ("validation", "test", "test_distinct")]
    assert [s.views for s in scores.values()] == [1, 1, 1, 60, 60, 60]
    for s in scores.values():
        assert f"{100 * s.accuracy:.2f}" in result.output


def test_evaluate_wants_one_of_its_two_uses(model: Path) -> None:
    for arguments in ([], ["--weights", "m", "--selection", "s.json"], ["artifacts", "--selection", "s.json"]):
        result = runner.invoke(app, ["evaluate", *arguments])
        assert isinstance(result.exception, LhcnetError)
        assert "expected --weights alone" in str(result.exception)


def test_weights_that_are_neither_model_nor_checkpoint_are_refused(model: Path, stores: tuple[Path, Path]) -> None:
    where = ["--trainval", str(stores[0]), "--test", str(stores[1])]
    result = runner.invoke(app, ["evaluate", "--weights", "nowhere", *where])
    assert isinstance(result.exception, LhcnetError)
    assert "nowhere" in str(result.exception)


def test_appendix_b_prints_its_table_and_saves_its_figure(tmp_path: Path) -> None:
    result = runner.invoke(app, ["appendix-b", "--figure", str(tmp_path / "a1.png")])
    assert result.exit_code == 0
    lines = [line.replace("│", " ").split() for line in result.output.splitlines()]
    rows = [line for line in lines if line[:1] and line[0].isdigit() and line[2] == "0"]  # C = 0
    assert [(row[0], row[1]) for row in rows if "global" in row] == [("0", "8"), ("1", "7")]
    assert len(rows) == 9
    assert (tmp_path / "a1.png").stat().st_size > 10_000


@pytest.mark.parametrize("command", [["sizes", "--out"], ["appendix-b", "--figure"], ["profile", "demo", "--out"]])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = runner.invoke(app, [*command, str(tmp_path / "file" / "out.png")])
    assert result.exit_code == 1
    assert not result.stdout
    assert isinstance(result.exception, LhcnetError)
    assert "out.png" in str(result.exception)
