from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from lhcnet.config import Augmentation, Compute, Stage
from lhcnet.data.drawn_faces import draw
from lhcnet.errors import LhcnetError
from lhcnet.inference.predict import loss_and_accuracy, predict
from lhcnet.inference.tta import plain_views, tta_views
from lhcnet.models.lhcnet import LHCNet
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.protocol.score import confusion, score
from lhcnet.runtime import Device, open_device
from lhcnet.saved import Epoch
from lhcnet.training.loop import DataSplit, FitResult, fit

CPU = Device(torch.device("cpu"), "float32")
MODULES = [{"heads": 1, "d": 3}] * 5


def network(seed: int = 0, modules: list[dict[str, int]] | None = None) -> ResNetV2:
    sizes = {"input_size": 32, "depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "head": (16,)}
    settings = sizes | {"dropout": 0.2, "bn_momentum": 0.1, "seed": seed}
    return LHCNet(modules, **settings) if modules else ResNetV2(**settings)


@pytest.fixture(scope="module")
def data() -> tuple[DataSplit, DataSplit]:
    faces = draw(600, seed=3)
    train, validation = faces.splits == 0, faces.splits == 1
    return DataSplit(faces.images[train], faces.labels[train]), DataSplit(
        faces.images[validation], faces.labels[validation]
    )


def run(
    net: ResNetV2, data: tuple[DataSplit, DataSplit], stage: Stage, seed: int = 0, seen: list[Epoch] | None = None
) -> FitResult:
    rows = [] if seen is None else seen
    return fit(net, *data, stage, seed=seed, input_size=32, device=CPU, on_epoch=rows.append)


def weights(net: ResNetV2) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values())


def test_training_learns_and_reports_every_epoch(data: tuple[DataSplit, DataSplit]) -> None:
    net, seen = network(), []
    result = run(net, data, Stage(optimizer="adam", learning_rate=3e-3, batch_size=32, epochs=6, patience=6), seen=seen)
    assert seen == result.history
    assert [row.epoch for row in seen] == list(range(7))
    first, last = seen[1].train_loss, seen[-1].train_loss
    assert first is not None
    assert last is not None
    assert last < 0.9 * first


def test_same_seed_same_bytes_and_another_seed_others(data: tuple[DataSplit, DataSplit]) -> None:
    augmentation = Augmentation(rotation=10, shift=0.1, zoom=0.1, flip=True)
    stage = Stage(optimizer="adam", learning_rate=3e-3, batch_size=32, epochs=4, augmentation=augmentation)

    def trained(seed: int) -> tuple[list[bytes], FitResult]:
        """Weights after every epoch, whether validation improved or not, and the result."""
        net, states = network(modules=MODULES), list[bytes]()
        torch.manual_seed(time.time_ns() % 2**32)  # the state of the global generator must not matter
        return states, fit(
            net, *data, stage, seed=seed, input_size=32, device=CPU, on_epoch=lambda _: states.append(weights(net))
        )

    after_epochs, results = zip(*(trained(seed) for seed in (5, 5, 6)), strict=True)
    assert len(set(after_epochs[0])) > 1  # the weights compared are trained ones
    assert after_epochs[0] == after_epochs[1]
    assert results[0].history == results[1].history
    assert after_epochs[0][0] == after_epochs[2][0]
    assert not set(after_epochs[0][1:]) & set(after_epochs[2][1:])
    assert results[0].history != results[2].history


def test_best_weights_are_restored_and_the_start_counts_as_epoch_0(data: tuple[DataSplit, DataSplit]) -> None:
    net = network()
    run(net, data, Stage(optimizer="adam", learning_rate=3e-3, batch_size=32, epochs=4, patience=4))
    before = weights(net)
    _, val_before = loss_and_accuracy(net, data[1].images, data[1].labels, input_size=32, device=CPU)
    # a learning rate that ruins the network: the stage may not end worse than it began
    result = run(net, data, Stage(learning_rate=50.0, batch_size=32, epochs=3, patience=3), seed=1)
    _, val_after = loss_and_accuracy(net, data[1].images, data[1].labels, input_size=32, device=CPU)
    assert val_after >= val_before
    if result.best_epoch == 0:
        assert weights(net) == before


def test_early_stopping_waits_for_patience(data: tuple[DataSplit, DataSplit]) -> None:
    result = run(network(), data, Stage(learning_rate=1e-12, batch_size=64, epochs=50, patience=2))
    best = result.best_epoch
    assert len(result.history) - 1 == best + 2
    assert all(row.val_accuracy <= result.history[best].val_accuracy for row in result.history)


def test_divergence_is_a_status_not_a_crash(data: tuple[DataSplit, DataSplit]) -> None:
    net = network()
    start = weights(net)
    result = run(net, data, Stage(learning_rate=1e30, batch_size=32, epochs=3, patience=3))
    assert result.status == "diverged"
    assert "not finite" in result.reason
    assert all(torch.isfinite(t).all() for t in net.state_dict().values())
    if result.best_epoch == 0:
        assert weights(net) == start


def test_a_last_batch_of_one_image_trains(data: tuple[DataSplit, DataSplit]) -> None:
    few = DataSplit(data[0].images[:33], data[0].labels[:33])
    result = fit(network(), few, data[1], Stage(batch_size=32, epochs=1), seed=0, input_size=32, device=CPU)
    assert result.status == "trained"


def test_plain_prediction_is_tta_with_one_view(data: tuple[DataSplit, DataSplit]) -> None:
    net = network(modules=MODULES)
    images = data[1].images[:10]
    plain = predict(net, images, plain_views(), input_size=32, device=CPU)
    sixty = predict(net, images, tta_views(), input_size=32, device=CPU, batch_size=3)
    assert plain.shape == sixty.shape == (10, 7)
    np.testing.assert_allclose(plain.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(sixty.sum(1), 1, atol=1e-5)
    # weight 3 of 62 on the identity: the same probabilities as the sum written out
    views = tta_views()
    written_out = sum(v.weight * predict(net, images, [v], input_size=32, device=CPU) for v in views) / 62
    np.testing.assert_allclose(sixty, written_out, atol=1e-5)


def test_score_carries_its_interval() -> None:
    labels = np.array([0] * 74 + [1] * 26, np.uint8)
    probabilities = np.zeros((100, 7), np.float32)
    probabilities[:, 0] = 1
    s = score(probabilities, labels, split="test", views=1)
    assert (s.accuracy, s.n, s.split, s.views) == (0.74, 100, "test", 1)
    assert s.ci95 == pytest.approx((0.6463, 0.8160), abs=1e-4)  # Wilson, by hand
    assert confusion(probabilities, labels)[1, 0] == 26


def test_cuda_without_a_gpu_is_an_error() -> None:
    if torch.cuda.is_available():
        assert open_device(Compute(device="cuda")).torch.type == "cuda"
    else:
        with pytest.raises(LhcnetError, match="cuda was asked for"):
            open_device(Compute(device="cuda"))


def test_deterministic_algorithms_can_be_asked_for(data: tuple[DataSplit, DataSplit]) -> None:
    """torch raises where it has none, so that a training that runs has used no other."""
    device = open_device(Compute(device="cpu", deterministic=True))
    try:
        assert torch.are_deterministic_algorithms_enabled()
        net = network(modules=MODULES)
        augmentation = Augmentation(rotation=10, shift=0.1, zoom=0.1, flip=True)
        stage = Stage(batch_size=32, epochs=1, augmentation=augmentation)
        assert fit(net, *data, stage, seed=0, input_size=32, device=device).status == "trained"
    finally:
        torch.use_deterministic_algorithms(False)
