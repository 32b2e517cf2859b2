"""The training loop: epochs, early stopping, divergence, determinism."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from lhcnet.config import Augmentation, Compute, Stage
from lhcnet.data.drawn_faces import draw
from lhcnet.errors import LhcnetError
from lhcnet.inference.predict import predict
from lhcnet.inference.tta import plain_views, tta_views
from lhcnet.models.lhcnet import LHCNet
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.protocol.score import confusion, score
from lhcnet.runtime import Device, open_device
from lhcnet.saved import Epoch
from lhcnet.training import loop
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


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_bytes(data: tuple[DataSplit, DataSplit]) -> None:
    augmentation = Augmentation(rotation=10, shift=0.1, zoom=0.1, flip=True)
    stage = Stage(optimizer="adam", learning_rate=3e-3, batch_size=32, epochs=4, augmentation=augmentation)

    def trained(seed: int) -> tuple[list[bytes], FitResult]:
        """Weights after every epoch, improved or not, and the result."""
        net, states = network(modules=MODULES), list[bytes]()
        torch.manual_seed(time.time_ns() % 2**32)  # the result must not depend on the global generator
        return states, fit(
            net, *data, stage, seed=seed, input_size=32, device=CPU, on_epoch=lambda _: states.append(weights(net))
        )

    after_epochs, results = zip(*(trained(seed) for seed in (5, 5, 6)), strict=True)
    assert len(set(after_epochs[0])) > 1  # training changed the weights
    assert after_epochs[0] == after_epochs[1]
    assert results[0].history == results[1].history
    assert after_epochs[0][0] == after_epochs[2][0]
    assert not set(after_epochs[0][1:]) & set(after_epochs[2][1:])
    assert results[0].history != results[2].history


def run_with_accuracies(
    data: tuple[DataSplit, DataSplit], accuracies: list[float], patience: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[FitResult, list[bytes], bytes]:
    """Train with these validation accuracies, one for each epoch from 0 on.

    Returns the result, the weights after each epoch, and the network's weights at the end.
    """
    net, after_epochs, validations = network(), list[bytes](), iter(accuracies)
    monkeypatch.setattr(loop, "loss_and_accuracy", lambda *_, **__: (1.0, next(validations)))
    stage = Stage(optimizer="adam", learning_rate=3e-3, batch_size=64, epochs=len(accuracies) - 1, patience=patience)
    result = fit(
        net, *data, stage, seed=0, input_size=32, device=CPU, on_epoch=lambda _: after_epochs.append(weights(net))
    )
    assert len(set(after_epochs)) == len(after_epochs)  # every epoch changed the weights
    return result, after_epochs, weights(net)


def test_weights_of_the_best_epoch_are_restored(
    data: tuple[DataSplit, DataSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, after_epochs, final = run_with_accuracies(data, [0.2, 0.1, 0.4, 0.3, 0.4], 3, monkeypatch)
    assert result.best_epoch == 2  # of equal accuracies the first
    assert final == after_epochs[2]


def test_initial_weights_are_restored_if_no_epoch_improves(
    data: tuple[DataSplit, DataSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, after_epochs, final = run_with_accuracies(data, [0.5, 0.4, 0.5, 0.1], 5, monkeypatch)
    assert result.best_epoch == 0
    assert len(result.history) == 4
    assert final == after_epochs[0]


def test_early_stopping_after_patience_epochs_without_improvement(
    data: tuple[DataSplit, DataSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _, _ = run_with_accuracies(data, [0.1, 0.3, 0.2, 0.4, 0.4, 0.2, 0.9, 0.9], 2, monkeypatch)
    assert [row.val_accuracy for row in result.history] == [0.1, 0.3, 0.2, 0.4, 0.4, 0.2]
    assert result.best_epoch == 3


def test_a_diverged_training_has_a_status_and_finite_weights(data: tuple[DataSplit, DataSplit]) -> None:
    net = network()
    start = weights(net)
    result = run(net, data, Stage(learning_rate=1e30, batch_size=32, epochs=3, patience=3))
    assert result.status == "diverged"
    assert "not finite" in result.reason
    assert result.best_epoch == 0  # the first epoch diverges
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
    # the same as the weighted sum over the views, one by one
    views = tta_views()
    expected = sum(v.weight * predict(net, images, [v], input_size=32, device=CPU) for v in views) / 62
    np.testing.assert_allclose(sixty, expected, atol=1e-5)


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


def test_training_runs_with_deterministic_algorithms(data: tuple[DataSplit, DataSplit]) -> None:
    """torch raises an error where it has no deterministic algorithm, so a training that runs used only those."""
    device = open_device(Compute(device="cpu", deterministic=True))
    try:
        assert torch.are_deterministic_algorithms_enabled()
        net = network(modules=MODULES)
        augmentation = Augmentation(rotation=10, shift=0.1, zoom=0.1, flip=True)
        stage = Stage(batch_size=32, epochs=1, augmentation=augmentation)
        assert fit(net, *data, stage, seed=0, input_size=32, device=device).status == "trained"
    finally:
        torch.use_deterministic_algorithms(False)
