"""Options of a training stage: optimiser, schedule, loss, mixing, erasing, average, sizes. Off, they change nothing."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.interrupted import Interrupted
from torch import Tensor, nn
from torchvision.transforms import v2

from lhcnet.config import Augmentation, Config, Stage, parse
from lhcnet.data.drawn_faces import draw
from lhcnet.data.transforms import adjust, affine, draw_affine, draw_boxes, erase, upscale
from lhcnet.errors import LhcnetError
from lhcnet.inference.predict import loss_and_accuracy
from lhcnet.models.lhcnet import LHCNet
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.profiles import profile
from lhcnet.runtime import Device
from lhcnet.saved import Epoch
from lhcnet.tracking.names import curve
from lhcnet.training import loop, optimizer
from lhcnet.training.augmentation import EpochAugmentation, derive_seed
from lhcnet.training.average import moving_average
from lhcnet.training.checkpoint import Checkpoint
from lhcnet.training.loop import DataSplit, FitResult, batch_slices, fit, train_epoch
from lhcnet.training.loss import batch_loss, class_weights, dominant
from lhcnet.training.mixing import Mix, draw_mixes, partner
from lhcnet.training.optimizer import make_optimizer
from lhcnet.training.schedule import learning_rate
from lhcnet.training.state import EpochTotals

CPU = Device(torch.device("cpu"), "float32")
AFFINE = Augmentation(rotation=20, shift=0.1, zoom=0.1, flip=True)
ALL = {
    "batch_size": 48,
    "epochs": 4,
    "patience": None,
    "augmentation": AFFINE.model_copy(update={"brightness": 0.3, "contrast": 0.2}),
    "weight_decay": 0.01,
    "schedule": "one_cycle",
    "warmup": 0.25,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "mixup": 0.4,
    "cutmix": 1.0,
    "mixup_off": 1,
    "random_erasing": 0.5,
    "ema": 0.9,
    "sizes": ((2, 32), (2, 40)),
}
ALL_ON = {
    "sgd": Stage(optimizer="sgd", learning_rate=0.02, momentum=0.9, nesterov=True, **ALL),
    "adam": Stage(optimizer="adam", learning_rate=3e-3, **ALL),
}


def network(*, lhc: bool = False) -> ResNetV2:
    sizes: dict[str, Any] = {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "head": (16,), "dropout": 0.4}
    sizes |= {"bn_momentum": 0.1, "input_size": 32, "seed": 1}
    net = LHCNet([{"heads": 1, "d": 3}] * 5, **sizes) if lhc else ResNetV2(**sizes)
    # images are normalised from the first batch on: otherwise gradients explode, or not, depending on the processor
    net.bn_data.running_mean, net.bn_data.running_var = torch.full((3,), 128.0), torch.full((3,), 64.0**2)
    return net


@pytest.fixture(scope="module")
def data() -> tuple[DataSplit, DataSplit]:
    faces = draw(300, seed=3)
    train, validation = (
        DataSplit(faces.images[faces.splits == split], faces.labels[faces.splits == split]) for split in (0, 1)
    )
    return train, validation


def weights(net: nn.Module) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values())


def trained(data: tuple[DataSplit, DataSplit], stage: Stage, **more: Any) -> tuple[bytes, FitResult]:
    torch.manual_seed(random.randrange(10**9))  # the result must not depend on torch's global generator
    size = more.pop("size", stage.sizes[-1][1] if stage.sizes else 32)
    net = more.pop("net", None) or network()
    result = fit(net, *data, stage, seed=5, input_size=size, device=CPU, **more)
    return weights(net), result


def test_with_all_options_off_the_loop_is_the_papers(data: tuple[DataSplit, DataSplit]) -> None:
    """A plain loop with the same seeds gives the same bytes, after every epoch."""
    stage = Stage(optimizer="adam", learning_rate=3e-3, batch_size=32, epochs=2, augmentation=AFFINE)
    after_epochs: list[bytes] = []
    net = network(lhc=True)
    fit(net, *data, stage, seed=5, input_size=32, device=CPU, on_epoch=lambda _: after_epochs.append(weights(net)))
    plain = network(lhc=True)
    CPU.move(plain)
    optimizer = torch.optim.Adam(plain.parameters(), lr=3e-3, eps=1e-7, fused=True)
    images, labels = torch.from_numpy(data[0].images), torch.from_numpy(data[0].labels).long()
    for epoch in (1, 2):
        plain.train()
        torch.manual_seed(derive_seed(f"5/0/{epoch}/dropout"))
        generator = torch.Generator().manual_seed(derive_seed(f"5/0/{epoch}/data"))
        order = torch.randperm(len(images), generator=generator)
        amounts = {"rotation": 20.0, "shift": 0.1, "zoom": 0.1, "flip": True}
        moves = draw_affine(len(images), size=32, generator=generator, **amounts)  # type: ignore[arg-type]
        for batch in batch_slices(len(images), 32):
            grey = affine(upscale(images[order[batch]], 32, truncate=True), moves[batch])
            optimizer.zero_grad()
            F.cross_entropy(plain(grey.expand(-1, 3, -1, -1)), labels[order[batch]]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert after_epochs[epoch] == weights(plain)


@pytest.mark.parametrize("steps", [8, 100])
@pytest.mark.parametrize("warmup", [0.1, 0.25, 0.5])
def test_one_cycle_has_the_rates_of_torch(steps: int, warmup: float) -> None:
    stage = Stage(schedule="one_cycle", warmup=warmup, learning_rate=0.2, patience=None)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.2, total_steps=steps, pct_start=warmup, cycle_momentum=False
    )
    for step in range(steps):
        assert learning_rate(stage, step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            scheduler.step()


def test_cosine_has_the_rates_of_torch_after_a_linear_warmup() -> None:
    stage = Stage(schedule="cosine", learning_rate=0.2, patience=None)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        assert learning_rate(stage, step, 40) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()
    warm = stage.model_copy(update={"warmup": 0.2})
    rates = [learning_rate(warm, step, 50) for step in range(50)]
    assert rates[:10] == pytest.approx([0.02 * (i + 1) for i in range(10)])
    assert rates[10:] == pytest.approx([learning_rate(stage, step, 40) for step in range(40)])


def test_each_batch_has_its_rate_and_the_history_that_of_the_last(
    data: tuple[DataSplit, DataSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    step = optimizer.SGD.step

    def spy(self: torch.optim.SGD, *args: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(optimizer.SGD, "step", spy)
    stage = Stage(schedule="cosine", warmup=0.2, batch_size=64, epochs=3, patience=None)
    _, result = trained(data, stage)
    batches = len(seen) // 3
    assert seen == [learning_rate(stage, i, len(seen)) for i in range(len(seen))]
    assert [row.learning_rate for row in result.history] == [None, *seen[batches - 1 :: batches]]
    assert curve(result.history[1])["epoch/learning_rate"] == seen[batches - 1]
    _, constant = trained(data, Stage(batch_size=64, epochs=1))
    assert "epoch/learning_rate" not in curve(constant.history[1])
    assert "learning_rate" not in constant.history[1].to_dict()


def test_norms_and_biases_do_not_decay() -> None:
    stage = Stage(weight_decay=0.1, momentum=0.9, nesterov=True)
    net = network(lhc=True)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = make_optimizer(net, stage)
    assert optimizer.defaults["momentum"] == 0.9
    assert optimizer.defaults["nesterov"]
    for p in net.parameters():
        p.data.add_(1.0)  # no value is zero: a decayed one changes
        p.grad = torch.zeros_like(p)
    optimizer.step()
    changed = {name for name, p in net.named_parameters() if not torch.equal(p.data, before[name] + 1.0)}
    norms = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert changed
    assert not [name for name in changed if name.endswith((".bias", ".b1")) or name.rpartition(".")[0] in norms]
    matrices = {name for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    kept = {f"{name}.weight" for name in matrices} | {name for name in before if name.endswith(".w1")}
    assert changed == kept


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weight_decay_shrinks_the_weights(data: tuple[DataSplit, DataSplit], optimizer: str) -> None:
    def norm(decay: float) -> float:
        net = network()
        stage = Stage(optimizer=optimizer, learning_rate=0.01, weight_decay=decay, batch_size=64, epochs=2)  # type: ignore[arg-type]
        train_epoch(
            net,
            make_optimizer(net, stage),
            torch.from_numpy(data[0].images),
            torch.from_numpy(data[0].labels).long(),
            stage=stage,
            seed="1",
            input_size=32,
            device=CPU,
            totals=EpochTotals.zero(CPU.torch),
        )
        return sum(float(p.detach().square().sum()) for p in net.parameters() if p.ndim > 1)

    assert norm(0.9) < 0.99 * norm(0.0)


def test_mixup_and_cutmix_combine_images_and_the_loss_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    grey, logits = torch.rand(6, 1, 8, 8, generator=generator), torch.randn(6, 7, generator=generator)
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    mix = Mix(0.3)
    torch.testing.assert_close(mix.images(grey)[1], 0.3 * grey[1] + 0.7 * grey[0])
    assert partner(labels).tolist() == [5, 0, 1, 2, 3, 4]
    assert dominant(labels, mix).tolist() == [5, 0, 1, 2, 3, 4]
    assert dominant(labels, Mix(0.5)).tolist() == labels.tolist()
    soft = 0.3 * F.one_hot(labels, 7) + 0.7 * F.one_hot(partner(labels), 7)
    stage = Stage(label_smoothing=0.2)
    expected = F.cross_entropy(logits, soft, label_smoothing=0.2)
    torch.testing.assert_close(batch_loss(logits, labels, stage, None, mix), expected)
    assert not torch.isclose(expected, F.cross_entropy(logits, soft))
    cut = Mix(0.75, (0, 4, 4, 8)).images(grey)
    assert torch.equal(cut[2, :, :4, 4:], grey[1, :, :4, 4:])
    assert torch.equal(cut[2, :, 4:], grey[2, :, 4:])
    assert torch.equal(cut[2, :, :, :4], grey[2, :, :, :4])


def test_shares_are_those_of_beta_and_of_the_area_and_the_last_epochs_are_not_mixed() -> None:
    stage = Stage(mixup=0.2, cutmix=1.0, mixup_off=2, epochs=5)
    mixes = draw_mixes(stage, 3, 4000, 48, seed=1)
    assert mixes is not None
    assert mixes == draw_mixes(stage, 3, 4000, 48, seed=1) != draw_mixes(stage, 3, 4000, 48, seed=2)
    assert draw_mixes(stage, 4, 10, 48, seed=1) is draw_mixes(Stage(), 1, 10, 48, seed=1) is None
    cuts = [mix for mix in mixes if mix.box]
    assert 0.45 < len(cuts) / len(mixes) < 0.55
    for mix in cuts:
        top, bottom, left, right = mix.box or (0, 0, 0, 0)
        assert 0 <= top <= bottom <= 48
        assert 0 <= left <= right <= 48
        assert mix.share == pytest.approx(1 - (bottom - top) * (right - left) / 48**2)
    shares = np.array([mix.share for mix in mixes if not mix.box])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)  # of Beta(0.2, 0.2)
    assert all(mix.box for mix in draw_mixes(Stage(cutmix=1.0), 1, 9, 48, seed=1) or [Mix(1)])


def test_brightness_and_contrast_are_those_of_torchvision() -> None:
    images = torch.rand(3, 1, 9, 9, generator=torch.Generator().manual_seed(0)) * 255
    factors = torch.tensor([0.7, 1.0, 1.3])
    ours = adjust(images, factors, factors)
    for image, mine, factor in zip(images, ours, factors.tolist(), strict=True):
        bright = v2.functional.adjust_brightness(image / 255, factor)
        torch.testing.assert_close(mine / 255, v2.functional.adjust_contrast(bright, factor), atol=1e-5, rtol=0)


def test_erasing_fills_boxes_with_the_mean() -> None:
    boxes = draw_boxes(2000, probability=0.4, size=48, generator=torch.Generator().manual_seed(0))
    height, width = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    erased = height * width > 0
    assert 0.36 < erased.float().mean() < 0.44
    assert not boxes[~erased].any()
    assert boxes.min() >= 0
    assert boxes.max() <= 48
    area = (height * width)[erased] / 48**2
    assert 0.015 < area.min() < 0.03
    assert 0.15 < area.mean() < 0.19
    images = torch.rand(2, 1, 8, 8) * 255
    done = erase(images, torch.tensor([[1, 3, 2, 8], [0, 0, 0, 0]]))
    assert torch.equal(done[1], images[1])
    assert torch.equal(done[0, 0, 1:3, 2:], images[0].mean().expand(2, 6))
    assert torch.equal(done[0, 0, 3:], images[0, 0, 3:])
    assert torch.equal(done[0, 0, :, :2], images[0, 0, :, :2])


def test_more_draws_do_not_change_the_others() -> None:
    def drawn(stage: Stage) -> tuple[Tensor, EpochAugmentation]:
        generator = torch.Generator().manual_seed(1)
        moves = EpochAugmentation.draw(9, stage, size=32, seed="s", generator=generator, device=CPU.torch)
        return torch.rand(3, generator=generator), moves

    off, on = drawn(Stage(augmentation=AFFINE)), drawn(ALL_ON["sgd"])
    assert torch.equal(off[0], on[0])
    assert torch.equal(off[1].geometry, on[1].geometry)
    assert off[1].tones is off[1].boxes is None
    tones, boxes = on[1].tones, on[1].boxes
    assert tones is not None
    assert boxes is not None
    assert 0.05 < (tones - 1).abs().max() <= 0.3
    erasing = drawn(Stage(random_erasing=0.5))[1].boxes
    assert erasing is not None
    assert torch.equal(erasing, boxes)


def test_balanced_classes_weigh_the_same_in_all() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [5])
    balanced = class_weights(labels, Stage(class_weights="balanced"))
    assert balanced is not None
    assert balanced.tolist() == pytest.approx([10 / 42, 10 / 21, 0, 0, 0, 10 / 7, 0])
    assert class_weights(labels, Stage()) is None
    logits = torch.randn(10, 7)
    expected = F.cross_entropy(logits, labels, weight=balanced)
    torch.testing.assert_close(batch_loss(logits, labels, Stage(), balanced, None), expected)


def test_label_smoothing_does_not_favour_rare_classes() -> None:
    """With balanced classes the best constant prediction is uniform, smoothed or not: the gradient is zero there."""
    labels = torch.tensor([0] * 60 + [1] * 2 + [2] * 8 + [3] * 90 + [4] * 30 + [5] * 40 + [6] * 50)
    stage = Stage(class_weights="balanced", label_smoothing=0.3)
    logits = torch.zeros(7, requires_grad=True)
    weights = class_weights(labels, stage)
    batch_loss(logits.expand(len(labels), 7), labels, stage, weights, None).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(logits.grad, torch.zeros(7), atol=1e-6, rtol=0)


def test_the_average_is_the_sum_by_hand() -> None:
    net, steps = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), list[dict[str, Tensor]]()
    average = moving_average(net, 0.9)
    for _ in range(4):
        net(torch.rand(3, 1, 5, 5))
        for p in net.parameters():
            p.data += torch.rand_like(p)
        average.update_parameters(net)
        steps.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
    first, second, third, last = steps
    for name, found in average.module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert found == 4
            continue
        expected = 0.729 * first[name] + 0.081 * second[name] + 0.09 * third[name] + 0.1 * last[name]
        torch.testing.assert_close(found, expected)
        assert not torch.equal(found, last[name])


def test_the_average_is_validated_and_kept(data: tuple[DataSplit, DataSplit], monkeypatch: pytest.MonkeyPatch) -> None:
    validated: list[bytes] = []
    accuracies = iter([0.1, 0.2, 0.3])

    def measured(net: nn.Module, *_: object, **__: object) -> tuple[float, float]:
        validated.append(weights(net))
        return 1.0, next(accuracies)

    monkeypatch.setattr(loop, "loss_and_accuracy", measured)
    stage = Stage(learning_rate=0.02, batch_size=64, epochs=2, ema=0.9)
    averaged, _ = trained(data, stage)
    assert averaged == validated[2]
    accuracies = iter([0.1, 0.2, 0.3])
    plain, _ = trained(data, stage.model_copy(update={"ema": 0.0}))
    assert plain == validated[5]
    assert validated[0] == validated[3]
    assert validated[1] != validated[4]


def test_an_epoch_is_kept_only_at_the_last_size(
    data: tuple[DataSplit, DataSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*args: Any, **settings: Any) -> tuple[float, float]:
        sizes.append(settings["input_size"])
        return loss_and_accuracy(*args, **settings)[0], next(accuracies)

    monkeypatch.setattr(loop, "loss_and_accuracy", measured)
    stage = Stage(batch_size=64, epochs=4, patience=None, sizes=((1, 32), (1, 48), (2, 40)))
    accuracies, sizes = iter([0.2, 0.9, 0.8, 0.3, 0.4]), list[int]()
    assert trained(data, stage)[1].best_epoch == 4
    assert sizes == [40, 32, 48, 40, 40]
    accuracies = iter([0.5, 0.9, 0.8, 0.3, 0.4])
    net = network()
    start = weights(net)
    final, result = trained(data, stage, net=net)
    assert (result.best_epoch, final) == (0, start), "the start is validated at the last size"


def test_networks_that_fit_one_size_are_refused(data: tuple[DataSplit, DataSplit]) -> None:
    stage = Stage(batch_size=64, epochs=2, patience=None, sizes=((1, 32), (1, 40)))
    with pytest.raises(LhcnetError, match="an LHC module fits maps of one size"):
        trained(data, stage, net=network(lhc=True))
    with pytest.raises(LhcnetError, match="the last size is 40; expected the network's input size, 32"):
        fit(network(), *data, stage, seed=5, input_size=32, device=CPU)


@pytest.mark.parametrize("optimizer", ALL_ON)
def test_with_all_options_on_an_interrupted_training_ends_with_the_same_bytes(
    tmp_path: Path, data: tuple[DataSplit, DataSplit], optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(net: ResNetV2, *args: Any, **settings: Any) -> tuple[float, float]:
        """The real loss; an accuracy that grows with every batch, so that each epoch is the best so far."""
        return loss_and_accuracy(net, *args, **settings)[0], int(net.bn_data.num_batches_tracked or 0) / 1000

    monkeypatch.setattr(loop, "loss_and_accuracy", measured)

    def run(kept: Checkpoint | None) -> tuple[bytes, bytes, FitResult]:
        net, last = network(), [b""]

        def keep(_: Epoch) -> None:
            last[0] = weights(net)

        final, result = trained(data, ALL_ON[optimizer], net=net, checkpoint=kept, on_epoch=keep)
        return last[0], final, result

    whole = run(None)
    assert whole[2].best_epoch == 4
    assert whole[0] != whole[1], "the average is kept, not the weights of the last batch"
    interrupted = Interrupted(tmp_path, "x", {}, seconds=0)  # a checkpoint after every batch
    interruptions, resumed = 0, None
    for writes in (1, 2, 9, 3, 8, 1, 7, 1000):
        interrupted.left = writes
        try:
            resumed = run(interrupted)
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 5
    assert resumed == whole


SHORT = ALL_ON["sgd"].model_copy(update={"epochs": 2, "sizes": ((1, 32), (1, 40)), "mixup_off": 0})


@pytest.fixture(scope="module")
def short(data: tuple[DataSplit, DataSplit]) -> tuple[bytes, FitResult]:
    """Two epochs with all options on."""
    return trained(data, SHORT, size=40)


@pytest.mark.parametrize("key", sorted(ALL.keys() - {"batch_size", "epochs", "patience", "warmup", "mixup_off"}))
def test_each_option_changes_the_result(
    data: tuple[DataSplit, DataSplit], short: tuple[bytes, FitResult], key: str
) -> None:
    """A setting that changes nothing is a defect: each one changes weights or history."""
    default = Stage.model_fields[key].default
    assert trained(data, SHORT.model_copy(update={key: default}), size=40) != short


def test_all_options_on_the_loss_falls(data: tuple[DataSplit, DataSplit]) -> None:
    stage = ALL_ON["sgd"].model_copy(update={"epochs": 8, "sizes": ((4, 32), (4, 40)), "random_erasing": 0.1})
    history = trained(data, stage)[1].history
    losses = [row.train_loss or 0.0 for row in history[1:]]
    assert losses[-1] < 0.97 * losses[0]
    assert all(a != b for a, b in pairwise(losses))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"optimizer": "adam", "momentum": 0.9}, "momentum: 0.9 applies to sgd only"),
        ({"nesterov": True}, "nesterov: needs momentum"),
        ({"warmup": 0.1}, "warmup: 0.1 applies to a schedule"),
        ({"schedule": "one_cycle", "patience": "none"}, "warmup: one_cycle begins with a rising rate"),
        ({"schedule": "cosine"}, "patience: 3 would cut schedule: cosine; expected patience: none"),
        ({"mixup_off": 1}, "mixup_off: 1 applies to mixup and cutmix"),
        ({"mixup_off": 2, "mixup": 0.2, "epochs": 2}, "mixup_off: 2 leaves no epoch"),
        ({"sizes": [[4, 48]], "patience": "none"}, "sizes: have 4 epochs in all; expected as many as epochs: 300"),
        ({"sizes": [[4, 48]], "epochs": 4}, "patience: 3 would cut sizes"),
        ({"sizes": [[4, 16]], "epochs": 4}, "sizes.0.1: Input should be greater than or equal to 32, not 16"),
        ({"patience": "never"}, "patience: Input should be a valid integer"),
        ({"patience": 0}, "patience: Input should be greater than or equal to 1, not 0"),
        ({"ema": 1.0}, "ema: Input should be less than 1"),
        ({"mixup": -1.0}, "mixup: Input should be greater than or equal to 0"),
    ],
)
def test_keys_that_do_not_fit_together_are_one_sentence(values: dict[str, object], says: str) -> None:
    with pytest.raises(LhcnetError) as error:
        parse(Stage, values, "stage1")
    assert str(error.value).startswith(f"stage1: {says}")
    assert "\n" not in str(error.value)


def test_sizes_are_for_networks_without_lhc() -> None:
    sized = {"epochs": 4, "patience": "none", "sizes": [[2, 32], [2, 96]]}
    first = {f"stage1.{key}": value for key, value in sized.items()}
    config = profile("cpu", first)
    assert config.stage1.sizes == ((2, 32), (2, 96))
    alone = config.standalone_stages[0]
    assert (alone.sizes, alone.patience) == ((), None)
    assert config.standalone_stages[1].patience == 2
    for key in ("stage4", "control.training"):
        changes = {f"{key}.{name}": value for name, value in sized.items()}
        with pytest.raises(LhcnetError, match=f"{key}.sizes: an LHC module fits maps of one size"):
            profile("cpu", changes)
    with pytest.raises(LhcnetError, match=r"stage1\.sizes: the last size is 40; expected network\.input_size: 96"):
        profile("cpu", first | {"stage1.sizes": [[2, 96], [2, 40]]})


def test_options_at_their_default_are_not_written() -> None:
    assert set(Stage().to_dict()) == {
        "optimizer",
        "learning_rate",
        "batch_size",
        "epochs",
        "patience",
        "augmentation",
    }
    assert set(Config().to_dict()["stage1"]["augmentation"]) == {"rotation", "shift", "zoom", "flip"}
    for stage in ALL_ON.values():
        values = stage.to_dict()
        assert values["patience"] == "none"
        assert parse(Stage, values, "stage1") == stage
    assert "momentum 0.9" in ALL_ON["sgd"].recipe()
    assert "sizes 2 x 32 px, 2 x 40 px" in ALL_ON["sgd"].recipe()
    assert Stage().recipe() == []
