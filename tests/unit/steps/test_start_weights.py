"""Start weights as a folder of their own: stage 1 trains from it alone, and gets the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from support.drivers import assert_same_files
from support.host import BACKBONE, SETTINGS
from support.web import Answer, serve
from typer.testing import CliRunner

from lhcnet import steps
from lhcnet.cli import app
from lhcnet.config import Config, Network, parse
from lhcnet.data import remote
from lhcnet.errors import LhcnetError
from lhcnet.model_record import Architecture
from lhcnet.profiles import to_yaml
from lhcnet.saved import SavedModel, open_model
from lhcnet.steps.start_folder import RECORD, START_WEIGHTS_FOLDER, open_start_weights
from lhcnet.weights import host, imagenet
from lhcnet.weights.host import PackagedWeights

KERAS = "resnet34_imagenet_1000_no_top.h5"


def unreachable() -> Path:
    raise LhcnetError("the network is away")


@pytest.fixture
def published_lhcnet(published: Path, tmp_path: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch) -> Network:
    """The network of a file that Keras wrote, which is downloaded in the place of the published one."""
    file = Path(shutil.copy(published / KERAS, tmp_path / "downloaded.h5"))
    monkeypatch.setattr(imagenet, "fetch", lambda: file)
    monkeypatch.setattr(imagenet, "RESNET34_WIDTHS", (2, 4, 8, 16))
    sizes = {"depths": (3, 4, 6, 3), "widths": (2, 4, 8, 16), "weights": "imagenet"}
    return tiny.network.model_copy(update=sizes)


@pytest.fixture
def packaged_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """A network of timm whose weights an installed package ships."""
    network = parse(Network, SETTINGS["network"] | {"weights": "imagenet"}, "network")
    state: dict[str, Any] = Architecture.of(network).build(7).host.state_dict()  # type: ignore[attr-defined]
    package = tmp_path / "shipped"
    package.mkdir()
    (package / "__init__.py").touch()
    # in the order of the network, and under names of its own
    torch.save(
        {("_fc." if "classifier" in name else "_") + name: value for name, value in state.items()}, package / "w"
    )
    digest = hashlib.sha256((package / "w").read_bytes()).hexdigest()
    monkeypatch.setitem(host.PACKAGED, BACKBONE, PackagedWeights("shipped", "w", digest, "Apache-2.0", "_fc"))
    monkeypatch.syspath_prepend(tmp_path)
    return network


@pytest.mark.parametrize(
    ("kind", "name", "license_"),
    [("published_lhcnet", "weights.h5", "MIT"), ("packaged_host", "weights.pth", "Apache-2.0")],
)
def test_stage_1_gives_the_same_bytes_from_the_folder_alone(
    kind: str,
    name: str,
    license_: str,
    request: pytest.FixtureRequest,
    stores: tuple[Path, Path],
    tiny: Config,
    context: steps.RunContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network: Network = request.getfixturevalue(kind)
    stage = tiny.stage1.model_copy(update={"epochs": 1})
    settings: dict[str, Any] = {"network": network, "stage": stage, "seed": 0, "context": context}
    by_hand = steps.train_backbone(stores[0], tmp_path / "by-hand", **settings)
    record = steps.start_weights(tmp_path / "start", network=network)
    assert record.start == by_hand.info.provenance.start_weights
    assert record.facts["license"] == license_
    assert {file.name for file in (tmp_path / "start").iterdir()} == {RECORD, name}
    assert START_WEIGHTS_FOLDER.problem(tmp_path / "start") == ""

    monkeypatch.setattr(imagenet, "fetch", unreachable)
    shutil.rmtree(tmp_path / "shipped", ignore_errors=True)
    with pytest.raises(LhcnetError, match=r"network is away|not installed|shipped/w"):
        steps.train_backbone(stores[0], tmp_path / "out", **settings)
    steps.train_backbone(stores[0], tmp_path / "out", start_weights=tmp_path / "start", **settings)
    assert_same_files(tmp_path / "out", by_hand.path)


def test_none_is_said_in_the_folder_and_starts_from_random_weights(
    backbone: SavedModel, stores: tuple[Path, Path], tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the commands that DVC runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LHCNET_TRACKING_WAIT", "0")
    Path("params.yaml").write_text(to_yaml(tiny))
    run = ["train", str(stores[0]), "out", "--stage", "1", "--seed", "0", "--start-weights", "start"]
    for command in (["start-weights", "start"], run):
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert json.loads((tmp_path / "start" / RECORD).read_text()) == {
        "schema_version": 1,
        "backbone": "lhcnet",
        "weights": "none",
        "file": None,
        "start": None,
    }
    assert [file.name for file in Path("start").iterdir()] == [RECORD]
    assert open_model(Path("out")).weights_digest() == backbone.weights_digest()
    assert open_model(Path("out")).info.provenance.start == "none"
    later = CliRunner().invoke(app, ["train", "x", "y", "--stage", "2", "--start", "out", "--start-weights", "start"])
    assert "--start-weights are of stage 1" in str(later.exception)


def flip_a_bit(folder: Path) -> None:
    content = (folder / "weights.h5").read_bytes()
    (folder / "weights.h5").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def rewrite(folder: Path, **changes: object) -> None:
    (folder / RECORD).write_text(json.dumps(json.loads((folder / RECORD).read_text()) | changes))


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (flip_a_bit, r"weights\.h5: is damaged: its SHA-256 is \w{12}, expected \w{12}: run start-weights again"),
    (lambda folder: (folder / "weights.h5").unlink(), r"weights\.h5: cannot be read, expected start weights: No such"),
    (
        lambda folder: (folder / RECORD).unlink(),
        r"start_weights\.json: expected a JSON file that an earlier step wrote",
    ),
    (
        lambda folder: rewrite(folder, file=None),
        r"start_weights\.json: .*expected both, or null for both where weights",
    ),
    (lambda folder: rewrite(folder, file="../weights.h5"), r"start_weights\.json: file: .* not '\.\./weights\.h5'"),
    (
        lambda folder: rewrite(folder, weights="other.h5"),
        r"start_weights\.json: is for network\.weights: other\.h5 of lhcnet, but the settings say imagenet of lhcnet",
    ),
]


def test_a_folder_that_is_damaged_or_for_other_settings_is_one_sentence(
    published_lhcnet: Network, tmp_path: Path
) -> None:
    steps.start_weights(tmp_path / "start", network=published_lhcnet)
    assert open_start_weights(tmp_path / "start", published_lhcnet) == tmp_path / "start" / "weights.h5"
    for number, (damage, says) in enumerate(DAMAGES):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "start", folder)
        damage(folder)
        with pytest.raises(LhcnetError, match=rf"^{folder}/{says}") as error:
            open_start_weights(folder, published_lhcnet)
        assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_found_before_any_training(
    published_lhcnet: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = published_lhcnet.model_copy(update={"weights": str(tmp_path / "downloaded.h5"), "depths": (3, 4, 5, 3)})
    monkeypatch.setattr(imagenet, "RESNET34_DEPTHS", other.depths)
    with pytest.raises(
        LhcnetError, match=r"network\.weights: .*downloaded\.h5: expected Keras weights of this backbone"
    ):
        steps.start_weights(tmp_path / "start", network=other)
    assert not (tmp_path / "start").exists()


@pytest.fixture
def published_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, str]:
    """A state dict as timm publishes it, and its digest. Nothing is in the cache, and nothing is tried again."""
    monkeypatch.setenv("LHCNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PATIENCE", 0.0)
    network = parse(Network, SETTINGS["network"], "network")
    content = save(Architecture.of(network).build(7).host.state_dict())  # type: ignore[attr-defined]
    return content, hashlib.sha256(content).hexdigest()


def of(weights: str) -> Network:
    return parse(Network, SETTINGS["network"] | {"weights": weights}, "network")


def test_an_address_is_downloaded_once_and_recorded_without_its_query(
    published_file: tuple[bytes, str],
    stores: tuple[Path, Path],
    tiny: Config,
    context: steps.RunContext,
    tmp_path: Path,
) -> None:
    content, digest = published_file
    with serve() as web:
        weights = web.put("/models/tiny.safetensors", Answer(content)) + f"?signature=secret#sha256={digest}"
        record = steps.start_weights(tmp_path / "start", network=of(weights))
        assert record.start is not None
        assert record.start.source == f"{web.url}/models/tiny.safetensors"
        assert (record.start.sha256, record.file) == (digest, "weights.safetensors")
        assert (tmp_path / "start" / "weights.safetensors").read_bytes() == content
        web.put("/models/tiny.safetensors", Answer(status=404))
        again = steps.start_weights(tmp_path / "again", network=of(weights))
        assert len(web.seen) == 1  # the second one is from the cache
    assert again == record
    stage = tiny.stage1.model_copy(update={"epochs": 1})
    settings: dict[str, Any] = {"network": of(weights), "stage": stage, "seed": 0, "context": context}
    with pytest.raises(LhcnetError, match=r"/models/tiny\.safetensors is an address, which `lhcnet start-weights"):
        steps.train_backbone(stores[0], tmp_path / "out", **settings)
    done = steps.train_backbone(stores[0], tmp_path / "out", start_weights=tmp_path / "again", **settings)
    assert done.info.provenance.start_weights == record.start
    assert open_start_weights(tmp_path / "again", of(weights)) == tmp_path / "again" / "weights.safetensors"


def test_a_damaged_file_in_the_cache_is_downloaded_again(published_file: tuple[bytes, str], tmp_path: Path) -> None:
    content, digest = published_file
    (tmp_path / "cache" / digest).mkdir(parents=True)
    (tmp_path / "cache" / digest / "tiny.safetensors").write_bytes(content[:-1])
    with serve() as web:
        weights = web.put("/tiny.safetensors", Answer(content)) + f"#sha256={digest}"
        steps.start_weights(tmp_path / "start", network=of(weights))
    assert (tmp_path / "start" / "weights.safetensors").read_bytes() == content


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (
            "{url}/tiny.safetensors",
            r"^network\.weights: .*/tiny\.safetensors: expected #sha256=<64 hex digits>",
        ),
        ("{url}/tiny.safetensors#sha256=12", r"^network\.weights: .* has to be followed by 64 hexadecimal digits"),
        ("{url}/tiny.safetensors#sha256=" + 64 * "0", r"tiny\.safetensors: these are other data than expected"),
        ("{url}/none.safetensors#sha256={digest}", r"none\.safetensors.*404"),
        ("ftp://host/tiny.safetensors#sha256={digest}", r"^network\.weights: .*unknown kind ftp://"),
        ("file:///nowhere/tiny.safetensors#sha256={digest}", r"^network\.weights: .*cannot be read"),
    ],
)
def test_an_address_that_does_not_give_the_file_is_one_sentence(
    weights: str, says: str, published_file: tuple[bytes, str], tmp_path: Path
) -> None:
    content, digest = published_file
    with serve() as web:
        web.put("/tiny.safetensors", Answer(content))
        with pytest.raises(LhcnetError, match=says) as error:
            steps.start_weights(tmp_path / "start", network=of(weights.format(url=web.url, digest=digest)))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "start").exists()
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []
