"""The ImageNet start: a file that Keras wrote, files in its layout, and the ways in which they can be wrong."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.published_files import SIZES, close_to_keras
from torch import Tensor

from lhcnet.errors import LhcnetError
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.weights import imagenet as weights
from lhcnet.weights.imagenet import fill_backbone, load_start

WIDTHS = (2, 4, 8, 16)  # of the file that Keras wrote
Arrays = dict[str, np.ndarray]


def tiny() -> ResNetV2:
    return ResNetV2(**SIZES | {"widths": WIDTHS}, seed=0).eval()


def drawn(widths: tuple[int, ...] = WIDTHS) -> Arrays:
    """Random weights under the names and shapes of `resnet34_imagenet_1000_no_top.h5`."""
    shapes: dict[str, tuple[int, ...]] = {"conv0/kernel": (7, 7, 3, widths[0])}
    norms = {"bn_data": 3, "bn0": widths[0], "bn1": widths[3]}
    inputs = widths[0]
    for stage, (depth, width) in enumerate(zip((3, 4, 6, 3), widths, strict=True), 1):
        for unit in range(1, depth + 1):
            name = f"stage{stage}_unit{unit}_"
            shapes |= {f"{name}conv1/kernel": (3, 3, inputs, width), f"{name}conv2/kernel": (3, 3, width, width)}
            norms |= {f"{name}bn1": inputs, f"{name}bn2": width}
            if unit == 1:
                shapes[f"{name}sc/kernel"] = (1, 1, inputs, width)
            inputs = width
    for name, channels in norms.items():
        shapes |= {f"{name}/{leaf}": (channels,) for leaf in ("gamma", "beta", "moving_mean", "moving_variance")}
    del shapes["bn_data/gamma"]
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}


def write(path: Path, arrays: Arrays, below: str = "") -> Path:
    """As Keras does it: layer/layer/variable:0, and layers without weights too."""
    with h5py.File(path, "w") as file:
        root = file.require_group(below) if below else file
        root.create_group("relu0")
        for name, array in arrays.items():
            layer, variable = name.split("/")
            root[f"{layer}/{layer}/{variable}:0"] = array
    return path


def state(network: ResNetV2) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a | b)


def test_what_keras_wrote_gives_what_keras_computes(published: Path) -> None:
    network, before = tiny(), state(tiny())
    fill_backbone(network, published / "resnet34_imagenet_1000_no_top.h5")
    close_to_keras(published, "backbone", network)
    after = state(network)
    head = [name for name in after if name.startswith(("hidden", "logits"))]
    assert len(head) == 6
    assert all(torch.equal(before[name], after[name]) for name in head)


def test_a_whole_saved_model_is_the_same_as_its_weights(tmp_path: Path) -> None:
    arrays = drawn()
    one, other = tiny(), tiny()
    fill_backbone(one, write(tmp_path / "weights.h5", arrays))
    whole = write(tmp_path / "model.h5", arrays, below="model_weights")
    with h5py.File(whole, "a") as file:
        file["optimizer_weights/iter:0"] = 3
        file.create_group("model_weights/top_level_model_weights")
    fill_backbone(other, whole)
    assert same(state(one), state(other))
    kernel = arrays["stage3_unit1_sc/kernel"]
    assert np.array_equal(one.state_dict()["stages.2.0.shortcut.weight"], kernel.transpose(3, 2, 0, 1))


def change(name: str, to: Callable[[np.ndarray], object] | None) -> Callable[[Arrays], None]:
    def changed(arrays: Arrays) -> None:
        array = arrays.pop(name, np.ones(3, np.float32))
        if to is not None:
            arrays[name] = to(array)

    return changed


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (change("stage3_unit2_conv1/kernel", None), r"stage3_unit2_conv1/kernel is missing, .*shape \(3, 3, 8, 8\)"),
        (change("bn_data/gamma", np.copy), "unexpected weight bn_data/gamma"),
        (change("fc1/kernel", np.copy), "unexpected weight fc1/kernel"),
        (change("conv0/kernel", lambda a: a.transpose(3, 2, 0, 1)), r"conv0/kernel is .*expected.*\(7, 7, 3, 2\)"),
        (change("bn0/beta", lambda a: a[:1]), r"bn0/beta is float32 of shape \(1,\), expected .*shape \(2,\)"),
        (change("bn0/beta", lambda a: a.astype("S4")), "bn0/beta is .*expected floating point"),
        (change("bn0/beta", lambda a: a.astype(int)), "bn0/beta is int64 .*expected floating point"),
        (change("bn0/beta", lambda a: a * np.nan), "bn0/beta has values that are not finite"),
        (change("bn1/beta", lambda a: h5py.Empty("f4")), "bn1/beta is .*expected floating point"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(damage: Callable[[Arrays], None], says: str, tmp_path: Path) -> None:
    arrays, network = drawn(), tiny()
    damage(arrays)
    before = state(network)
    with pytest.raises(LhcnetError, match=rf"^network\.weights: .*damaged\.h5: expected Keras .*: {says}") as error:
        fill_backbone(network, write(tmp_path / "damaged.h5", arrays))
    assert "\n" not in str(error.value)
    assert same(before, state(network))


def test_a_size_that_is_only_claimed_takes_no_memory(tmp_path: Path) -> None:
    arrays = drawn()
    del arrays["conv0/kernel"]
    path = write(tmp_path / "bomb.h5", arrays)
    with h5py.File(path, "a") as file:
        file.create_dataset("conv0/conv0/kernel:0", (10**6, 10**7), "f4", chunks=(1, 1024))
    with pytest.raises(LhcnetError, match=r"conv0/kernel is float32 of shape \(1000000, 10000000\)"):
        fill_backbone(tiny(), path)


@pytest.mark.parametrize("length", [0, 8, 100, 5000, -200])
def test_a_file_that_is_cut_off_is_one_sentence(length: int, tmp_path: Path) -> None:
    path = write(tmp_path / "cut.h5", drawn())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        LhcnetError, match=r"^network\.weights: .*cut\.h5: expected Keras weights of this backbone in HDF5"
    ):
        fill_backbone(tiny(), path)


def test_none_is_the_random_start() -> None:
    network = tiny()
    before = state(network)
    assert load_start("none", network) == (network, "none")
    assert same(before, state(network))


@pytest.mark.parametrize("sizes", [{"widths": WIDTHS}, {"widths": (64, 128, 256, 512), "depths": (3, 4, 5, 3)}])
def test_the_published_file_fits_one_backbone_only(sizes: dict[str, object]) -> None:
    with pytest.raises(LhcnetError, match=r"imagenet is for depths \(3, 4, 6, 3\) and widths \(64, 128, 256, 512\)"):
        load_start("imagenet", ResNetV2(**SIZES | sizes, seed=0))


# fetching


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served in the place of the release; the cache is the folder `cache`."""
    (tmp_path / "served").mkdir()
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "served"))
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(weights, "URL", f"http://127.0.0.1:{http.server_port}/published.h5")
    monkeypatch.setenv("LHCNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield tmp_path / "served"
    http.shutdown()
    http.server_close()


@pytest.fixture(scope="module")
def full() -> ResNetV2:
    return ResNetV2(head=(8,), seed=0)


def test_imagenet_is_fetched_once_and_never_believed_unchecked(
    server: Path, full: ResNetV2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = drawn((64, 128, 256, 512))
    source = write(server / "published.h5", arrays)
    content = source.read_bytes()
    monkeypatch.setattr(weights, "CHECKSUM", f"md5:{hashlib.md5(content).hexdigest()}")
    network, digest = load_start("imagenet", full)
    assert digest == hashlib.sha256(content).hexdigest()
    assert np.array_equal(network.state_dict()["stem_conv.weight"], arrays["conv0/kernel"].transpose(3, 2, 0, 1))

    source.unlink()
    assert load_start("imagenet", full)[1] == digest  # from the cache
    [cached] = (tmp_path / "cache").iterdir()
    assert load_start(str(cached), full)[1] == digest  # by its path
    cached.write_bytes(content[:-1])
    with pytest.raises(LhcnetError, match="could not be downloaded"):  # a damaged copy counts as none
        load_start("imagenet", full)


def test_another_file_than_the_published_one_is_refused(server: Path, full: ResNetV2, tmp_path: Path) -> None:
    (server / "published.h5").write_bytes(b"something else")
    with pytest.raises(LhcnetError, match=r"published\.h5: expected the published file, with checksum md5:8caaa0ad"):
        load_start("imagenet", full)
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_network_says_where_the_file_may_be_put(
    server: Path, full: ResNetV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "URL", "http://127.0.0.1:9/published.h5")
    with pytest.raises(LhcnetError, match=r"could not be downloaded; .*cache/published\.h5 \(LHCNET_CACHE") as error:
        load_start("imagenet", full)
    assert "\n" not in str(error.value)
