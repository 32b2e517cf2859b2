"""The image under the restrictions of a strict cluster. LHCNET_IMAGE names it; by default, the one of `make image`.

A user id without a name in group 0, a read-only root file system, no capabilities, no network.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException, ImageNotFound
from support.drivers import assert_same_analysis, digest

import lhcnet
from components import IMAGE
from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from pipeline.local import run

pytestmark = pytest.mark.docker

ABSENT = ("cc", "gcc", "g++", "clang", "ld", "make", "git", "pytest", "ruff", "mypy", "hadolint", "uv")
SMOKE = """
import os, tempfile
from importlib.util import find_spec
from pathlib import Path
import kfp, kfp.kubernetes, mlflow, timm, torch, torchvision
from lhcnet import LHCNet
assert not [name for name in ("pytest", "hypothesis", "mypy", "triton") if find_spec(name)]
assert (os.getuid(), os.getgid()) == (USER, 0), (os.getuid(), os.getgid())
assert {line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap")} == {"0" * 16}
for folder in (Path.cwd(), Path.home(), Path(tempfile.gettempdir()), Path("/tmp/kfp_outputs")):
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text("written")
    assert folder.resolve().is_relative_to("/scratch"), folder
for folder in (Path(torch.__file__).parents[1], Path("/"), Path("/etc")):
    try:
        (folder / "file").write_text("")
    except OSError:
        continue
    raise AssertionError(f"{folder} can be written")
print("all right")
"""


@pytest.fixture(scope="module")
def image() -> str:
    """Name of the image; skips where there is no engine or no image."""
    name = os.environ.get("LHCNET_IMAGE") or IMAGE
    try:
        docker.from_env().images.get(name)
    except ImageNotFound:
        pytest.skip(f"the Docker engine has no image {name}; `make image` builds it")
    except DockerException as error:
        pytest.skip(f"no Docker engine answers: {error}")
    return name


@pytest.fixture(scope="module")
def user() -> int:
    """A user id that the image has no name for, as OpenShift gives it."""
    return random.randint(1_000_000_000, 1_000_999_999)


@pytest.fixture(scope="module")
def output(image: str, user: int) -> Callable[..., str]:
    """Runs a command in the image, and returns what it prints."""

    def run_command(*command: str) -> str:
        printed = docker.from_env().containers.run(
            image,
            list(command),
            user=f"{user}:0",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network_mode="none",
            tmpfs={"/scratch": "mode=1777"},
            remove=True,
            stderr=True,
        )
        return str(printed.decode())

    return run_command


def test_any_user_imports_all_and_writes_to_scratch_alone(output: Callable[..., str], user: int) -> None:
    assert output("python", "-c", SMOKE.replace("USER", str(user))).splitlines() == ["all right"]


def test_commands_run_as_any_user(output: Callable[..., str]) -> None:
    assert lhcnet.__version__ in output("lhcnet", "--version")
    assert "parameters" in output("lhcnet", "sizes")


def test_scratch_of_the_image_is_enough_without_a_volume(image: str, user: int) -> None:
    command = ["sh", "-c", 'echo written > "$(mktemp -d)/file" && touch ~/file /tmp/file && id -u']
    printed = docker.from_env().containers.run(image, command, user=f"{user}:0", remove=True)
    assert printed.decode().split() == [str(user)]


def test_neither_compilers_nor_test_tools_are_in_the_image(output: Callable[..., str]) -> None:
    assert output("sh", "-c", f"for tool in {' '.join(ABSENT)}; do command -v $tool; done; true") == ""
    assert output("find", "/opt", "-name", "*.a", "-o", "-name", "pip", "-o", "-name", "tests") == ""


def test_labels_and_user(image: str) -> None:
    config = docker.from_env().images.get(image).attrs["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["title"] == "lhcnet"
    assert labels["version"] == lhcnet.__version__
    assert labels["licenses"] == "Apache-2.0"
    assert len(labels["revision"].removesuffix("-dirty")) == 40
    assert labels["created"].endswith("+00:00")
    assert {"source", "description"} <= labels.keys()
    assert config["User"] == "10001:0"  # a number, for `runAsNonRoot`


@pytest.mark.timeout(1800)
def test_the_pipeline_in_containers_gives_the_metrics_of_direct_calls(
    image: str, user: int, direct: Path, one_seed: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.umask(0)  # the tasks of another user write to the folder of the run
    try:
        folder = run(one_seed, None, tmp_path / "runs", image=image, user=f"{user}:0")
    finally:
        os.umask(before)
    (report,) = folder.glob("*/compare/report")
    assert report.stat().st_uid == user
    assert digest(report) == digest(direct / "report")
    (analysis,) = folder.glob("*/analyse/results")
    assert_same_analysis(analysis, direct / "analysis")
    assert "alias champion" in " ".join(capsys.readouterr().out.split())
    assert (folder / "mlflow.db").exists()


def test_an_image_that_the_engine_does_not_have(image: str, one_seed: Config, tmp_path: Path) -> None:
    with pytest.raises(LhcnetError, match=r"missing:1: the Docker engine does not have this image; .* `make image`"):
        run(one_seed, None, tmp_path / "runs", image="missing:1")
