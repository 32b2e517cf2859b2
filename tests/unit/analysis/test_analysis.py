"""The analyses of section 3.2.4 against computations of their own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import entropy
from support.naive_lhc import naive

from lhcnet import steps
from lhcnet.analysis import heads, necessity, run, switching
from lhcnet.analysis import parameter_counts as sizes
from lhcnet.analysis.ablation import KINDS, Ablation, AblationKind, keep_first, lose_head, lose_module
from lhcnet.analysis.necessity import FirstHeadsKept, needed, plan
from lhcnet.analysis.results import QUANTILES, Skipped, read, write
from lhcnet.analysis.switching import ablated, initial_network
from lhcnet.config import Config, Stage
from lhcnet.data.store import open_store
from lhcnet.errors import LhcnetError
from lhcnet.inference.predict import predict
from lhcnet.inference.tta import plain_views
from lhcnet.models.lhcnet import LHCNet, add_control
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.models.slots import SLOTS
from lhcnet.protocol.paper import PAPER_TABLE_A2
from lhcnet.protocol.score import score
from lhcnet.report import analysis_plots as figures
from lhcnet.report.analysis_tables import analysis_tables
from lhcnet.runtime import Device
from lhcnet.saved import Metrics, ModelInfo, SavedModel, open_model, save

CPU = Device(torch.device("cpu"), "float32")
TABLE_2 = (8, 8, 7, 7, 1)
SIZE = 32
HEADS = (4, 4, 2, 4, 1)
ROWS = [{"heads": n, "d": 3} for n in HEADS]  # maps are 8x8, 8x8, 4x4, 2x2 and 1x1
SHAPE = {"input_size": SIZE, "depths": (1, 1, 1, 1), "widths": (4, 4, 8, 8), "head": (8,)}


def trained(seed: int, control: bool = False, **options: object) -> ResNetV2:
    """Far from its start, as after training; modules that matter."""
    network = LHCNet(**SHAPE, modules=[row | options for row in ROWS], control=control, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.attention.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network


def pixels(n: int = 3, seed: int = 0) -> torch.Tensor:
    return 255 * torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def faces(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, 48, 48), np.uint8)


@pytest.fixture(scope="module")
def inserted(stores: tuple[Path, Path], tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    folder = tmp_path_factory.mktemp("analysis")
    context = steps.RunContext(compute=tiny.compute)
    steps.train_backbone(
        stores[0], folder / "backbone", network=tiny.network, stage=tiny.stage4, seed=0, context=context
    )
    return steps.insert_lhc(folder / "backbone", folder / "inserted", variant=tiny.variant("wide"), set_="C", seed=3)


@pytest.fixture(scope="module")
def saved(inserted: SavedModel, stores: tuple[Path, Path], tiny: Config) -> SavedModel:
    out = inserted.path.parent / "trained"
    stage = Stage(optimizer="adam", learning_rate=0.005, batch_size=32, epochs=3)
    context = steps.RunContext(compute=tiny.compute)
    return steps.train_stage(stores[0], inserted.path, out, stage_number=4, stage=stage, seed=3, context=context)


@pytest.fixture(scope="module")
def analysed(saved: SavedModel, stores: tuple[Path, Path]) -> run.Analysis:
    return run.analyse(saved, *open_store(stores[0]).split("validation"), device=CPU, batch_size=16)


# the initial weights


def test_initial_network_is_the_inserted_one_in_the_trained_host(saved: SavedModel, inserted: SavedModel) -> None:
    initial, start, end = (s.state_dict() for s in (initial_network(saved), inserted.network(), saved.network()))
    assert list(initial) == list(start)
    for name, tensor in initial.items():
        assert torch.equal(tensor, (start if name.startswith("attention.") else end)[name]), name
    assert not torch.equal(end["attention.0.lhc.w1"], start["attention.0.lhc.w1"])
    assert not torch.equal(end["stem_conv.weight"], start["stem_conv.weight"])


def test_initial_network_of_a_stand_alone_training(stores: tuple[Path, Path], tiny: Config, tmp_path: Path) -> None:
    common = {"context": steps.RunContext(compute=tiny.compute), "network": tiny.network, "stage": tiny.stage4}
    wide = tiny.variant("wide")
    model = steps.train_standalone(stores[0], tmp_path / "m", seed=5, variant=wide, **common)
    fresh = model.info.architecture.build(5).attention.state_dict()
    assert all(torch.equal(t, fresh[name]) for name, t in initial_network(model).attention.state_dict().items())


def test_initial_network_of_an_lhcnetc_is_that_of_its_lhcnet(saved: SavedModel, tmp_path: Path) -> None:
    info = saved.info
    controlled = ModelInfo(
        architecture=info.architecture.model_copy(update={"control": True}),
        provenance=info.provenance.model_copy(update={"set": "control", "id": f"LHC-NetC/{saved.id}"}),
    )
    save(tmp_path / "c", add_control(saved.network()), controlled, Metrics(status="trained"), [])
    wanted = initial_network(saved).attention.state_dict()
    found = initial_network(open_model(tmp_path / "c")).attention.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


def test_networks_without_lhc_are_refused(saved: SavedModel) -> None:
    backbone = open_model(saved.path.parent / "backbone")
    with pytest.raises(ValueError, match="has no LHC modules"):
        initial_network(backbone)
    with pytest.raises(ValueError, match="5 LHC modules, its slots hold Identity"):
        heads.head_statistics(backbone.network(), faces(2), input_size=SIZE, device=CPU)
    other = trained(0)
    other.attention[2] = torch.nn.SiLU()
    with (
        pytest.raises(ValueError, match="its slots hold ResidualLHC, SiLU"),
        ablated(other, lose_module(HEADS, 0, "off")),
    ):
        pass


# what a change does


def test_changes_of_table_2() -> None:
    assert [sorted(lost) for lost in keep_first(TABLE_2, 21, "off").lost] == [[], [], [5, 6], list(range(7)), [0]]
    assert keep_first(TABLE_2, 16, "off").first == 2
    assert keep_first(TABLE_2, 0, "off").lost == tuple(frozenset(range(n)) for n in TABLE_2)
    assert not any(keep_first(TABLE_2, 31, "off").lost)
    assert lose_head(TABLE_2, 3, 6, "reset").lost == (frozenset(),) * 3 + (frozenset([6]), frozenset())
    # of 5 modules, 31 heads and 31 numbers of heads kept, LHC5, its only head and 30 heads kept are one change
    assert len(plan(TABLE_2)) == len(set(plan(TABLE_2))) == 2 * (5 + 31 + 31 - 2)


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("slot_index", range(3))
def test_a_head_off_is_its_slice_of_lhc_zero(slot_index: int, control: bool) -> None:
    network = trained(1, control).double()
    slot = network.attention[slot_index]
    x = torch.rand(1, slot.lhc.channels, slot.lhc.height, slot.lhc.width, dtype=torch.float64)
    y = naive(slot.lhc, x[0].numpy()).reshape(slot.lhc.channels, -1)
    L = y.shape[1] // HEADS[slot_index]
    y[:, L : 2 * L] = 0
    factor = 1 + np.tanh(slot.w.item()) if control else 1
    expected = x[0].numpy() + factor * y.reshape(x.shape[1:])
    with ablated(network, lose_head(HEADS, slot_index, 1, "off")), torch.no_grad():
        found = network.attention[slot_index](x)[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("split", ["horizontal", "vertical", "learnt"])
def test_the_heads_add_up_to_the_module(split: str) -> None:
    network, x = trained(2, split=split).double(), torch.rand(2, 4, 8, 8, dtype=torch.float64)
    whole = network.attention[0].lhc(x)
    total = torch.zeros_like(whole)
    for head in range(4):
        alone = Ablation("off", (frozenset(range(4)) - {head}, *[frozenset[int]()] * 4))
        with ablated(network, alone):
            total += network.attention[0](x) - x
    torch.testing.assert_close(total, whole)


@torch.no_grad()
def test_a_module_off_is_a_module_that_adds_nothing() -> None:
    network, x = trained(3), pixels()
    silent = copy.deepcopy(network)
    for parameter in silent.attention[1].lhc.conv.parameters():
        parameter.zero_()
    with ablated(network, lose_module(HEADS, 1, "off")):
        torch.testing.assert_close(network(x), silent(x))
    one_by_one = Ablation("off", (frozenset(), frozenset(range(4)), *[frozenset[int]()] * 3))
    assert one_by_one == lose_module(HEADS, 1, "off")


@torch.no_grad()
def test_all_modules_set_back_are_the_initial_network(saved: SavedModel) -> None:
    network, initial, x = saved.network(), initial_network(saved), pixels()
    everything = [slot.lhc.heads for slot in network.attention]
    with ablated(network, keep_first(everything, 0, "reset"), initial):
        assert torch.equal(network(x), initial(x))
    assert not torch.equal(network(x), initial(x))


@torch.no_grad()
@pytest.mark.parametrize("control", [False, True])
def test_a_head_set_back_has_its_own_first_weights(control: bool) -> None:
    network, initial, x = trained(4, control), LHCNet(**SHAPE, modules=ROWS, seed=4).eval(), pixels()
    by_hand = copy.deepcopy(network)
    for name in ("w1", "b1"):
        getattr(by_hand.attention[2].lhc, name)[1] = getattr(initial.attention[2].lhc, name)[1]
    with ablated(network, lose_head(HEADS, 2, 1, "reset"), initial):
        assert torch.equal(network(x), by_hand(x))
        assert not torch.equal(network.attention[2].lhc.w2.weight, initial.attention[2].lhc.w2.weight)
    with ablated(network, lose_module(HEADS, 2, "reset"), initial):
        for name, tensor in initial.attention[2].state_dict().items():
            assert torch.equal(network.attention[2].state_dict()[name], tensor)
        assert network.attention[2].w is by_hand.attention[2].w is None or control
        if control:
            assert torch.equal(network.attention[2].w, by_hand.attention[2].w)


@torch.no_grad()
def test_a_module_set_back_takes_norms_and_second_convolution_with_it() -> None:
    options = {"norm": "both", "second_conv": True}
    network, x = trained(5, **options), pixels()
    initial = LHCNet(**SHAPE, modules=[row | options for row in ROWS], seed=5).eval()
    network.attention[0].norm1.running_mean += 1
    by_hand = copy.deepcopy(network)
    by_hand.attention[0] = initial.attention[0]
    with ablated(network, lose_module(HEADS, 0, "reset"), initial):
        assert torch.equal(network(x), by_hand(x))
    with ablated(network, lose_module(HEADS, 0, "off")):
        assert torch.equal(network.attention[0](x), x)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_network_comes_back_bit_for_bit(kind: AblationKind) -> None:
    network, initial, x = trained(6, control=True), LHCNet(**SHAPE, modules=ROWS, seed=6), pixels()
    slots, before = list(network.attention), copy.deepcopy(network.state_dict())
    start, logits = copy.deepcopy(initial.state_dict()), network(x)
    for change in plan(HEADS):
        if change.kind == kind:
            with pytest.raises(RuntimeError, match="expanded size"), ablated(network, change, initial):
                network(torch.cat([x, x], dim=1))
    assert list(network.attention) == slots
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert all(torch.equal(t, start[name]) for name, t in initial.state_dict().items())
    assert torch.equal(network(x), logits)


def test_changes_that_cannot_be() -> None:
    network = trained(0)
    with (
        pytest.raises(ValueError, match=r"LHC3 has the heads 0..1, not \[5\]"),
        ablated(network, lose_head(HEADS, 2, 5, "off")),
    ):
        pass
    with pytest.raises(ValueError, match="needs the network"), ablated(network, lose_module(HEADS, 0, "reset")):
        pass
    assert all(isinstance(slot.lhc.partition, torch.nn.Module) for slot in network.attention)


def test_probabilities_under_all_changes_are_those_of_the_changed_networks() -> None:
    network, initial, images = trained(7), LHCNet(**SHAPE, modules=ROWS, seed=7).eval(), faces(5)
    changes = plan(HEADS)[::3]
    common = {"input_size": SIZE, "device": CPU, "batch_size": 3}
    found = switching.probabilities(network, changes, initial, images, **common)
    np.testing.assert_allclose(found[0], predict(network, images, plain_views(), **common), atol=1e-6)
    for p, change in zip(found[1:], changes, strict=True):
        with ablated(network, change, initial):
            np.testing.assert_allclose(p, predict(network, images, plain_views(), **common), atol=1e-6)


# what it costs


def kept(worse: Sequence[int], better: Sequence[int] = ()) -> list[FirstHeadsKept]:
    """Networks with 0 to 31 heads of which some are significantly worse or better than the full one."""
    bounds = [0, 8, 16, 23, 30, 31]
    perfect = score(np.eye(7, dtype=np.float32), np.arange(7, dtype=np.uint8), split="validation", views=1)
    whole = {bound: modules for modules, bound in enumerate(bounds)}
    return [
        FirstHeadsKept(
            kind="off",
            score=perfect,
            lost=9 if m in worse else 0,
            won=9 if m in better else 0,
            p=0.01 if m in worse or m in better else 0.05,
            heads=m,
            modules=whole.get(m),
        )
        for m in range(32)
    ]


def test_an_ablated_network_is_worse_only_if_that_is_significant() -> None:
    one = kept([])[0]
    figures = [(1, 8, 0.04), (8, 1, 0.04), (8, 1, 0.05)]
    made = [one.model_copy(update={"lost": lost, "won": won, "p": p}) for lost, won, p in figures]
    assert [(x.significant, x.worse) for x in made] == [(True, False), (True, True), (False, False)]


def test_heads_needed_are_those_behind_the_last_that_is_worse() -> None:
    found = [
        needed(kept(range(16))),
        needed(kept([0, 8, 12], better=[20])),
        needed(kept([])),
        needed(kept(range(31))),
    ]
    assert [(n.heads, n.modules) for n in found] == [(16, 2), (13, 2), (0, 0), (31, 5)]


def test_scores_belong_to_their_changes() -> None:
    """Each change spoils a number of images of its own: they must turn up under its name."""
    changes, n = plan(TABLE_2), 200
    labels = np.arange(n, dtype=np.uint8) % 7
    p = np.tile(np.eye(7, dtype=np.float32)[labels], (1 + len(changes), 1, 1))
    for i in range(len(changes)):
        p[i + 1, :i] = np.roll(p[i + 1, :i], 1, axis=1)
    report = necessity.necessity(TABLE_2, p, labels, split="validation")
    spoilt = {change: i for i, change in enumerate(changes)} | {keep_first(TABLE_2, 31, kind): 0 for kind in KINDS}
    assert (report.full.accuracy, report.full.n, report.full.split) == (1.0, n, "validation")
    assert (len(report.modules), len(report.single), len(report.kept)) == (10, 62, 64)
    changes_of = (
        [(part, lose_module(TABLE_2, SLOTS.index(part.slot), part.kind)) for part in report.modules]
        + [(x, lose_head(TABLE_2, SLOTS.index(x.slot), (x.head or 0) - 1, x.kind)) for x in report.single]
        + [(x, keep_first(TABLE_2, x.heads, x.kind)) for x in report.kept]
    )
    for compared, change in changes_of:
        assert (compared.lost, compared.won) == (spoilt[change], 0)
        assert compared.score.accuracy == pytest.approx(1 - spoilt[change] / n)
        assert compared.worse == (spoilt[change] > 5)  # 2 / 2^6 < 0.05 < 2 / 2^5
    assert [k.heads for k in report.kept if k.modules is not None and k.kind == "off"] == [0, 8, 16, 23, 30, 31]


# the heads


def test_head_statistics_against_numpy() -> None:
    network, images = trained(8), faces(7)
    found = heads.head_statistics(network, images, input_size=SIZE, device=CPU, batch_size=3)
    seen = []
    hook = network.attention[1].lhc.register_forward_hook(lambda lhc, x, _: seen.append(lhc.intermediates(x[0])))
    predict(network, images, plain_views(), input_size=SIZE, device=CPU)
    hook.remove()
    (z,), module = seen, found[1]
    A = z.A.double().numpy()  # (7, heads, C, L)
    np.testing.assert_allclose(module.correlation, np.corrcoef([A[:, h].ravel() for h in range(4)]), atol=1e-6)
    T = z.T.numpy()[..., 0]
    assert np.array_equal(module.scaling.sum(axis=1), [T[:, 0].size] * 4)
    for h in range(4):
        for q, value in zip(QUANTILES, module.quantiles()[h], strict=True):
            assert (T[:, h] < value - 0.001).mean() <= q <= (T[:, h] < value + 0.001).mean()
    np.testing.assert_allclose(module.scaling_mean, T.mean(axis=(0, 2)), atol=1e-6)
    W = z.attention.double().numpy()
    np.testing.assert_allclose(module.attention, W.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(module.entropy, entropy(W, axis=3).mean(axis=(0, 2)) / np.log(4), atol=1e-5)
    np.testing.assert_allclose(module.entropy_of_mean, entropy(W.mean(0), axis=2).mean(1) / np.log(4), atol=1e-5)
    assert (module.entropy_of_mean >= module.entropy - 1e-9).all()  # entropy is concave


def test_norms_are_in_front_of_what_is_looked_at() -> None:
    network, images = trained(9, norm="before"), faces(3)
    with torch.no_grad():
        network.attention[0].norm1.weight.zero_()
        network.attention[0].norm1.bias.fill_(1.0)  # LHC1 sees ones whatever the image
    first = heads.head_statistics(network, images, input_size=SIZE, device=CPU)[0]
    with torch.no_grad():
        T = network.attention[0].lhc.intermediates(torch.ones(1, 4, 8, 8)).T
    np.testing.assert_allclose(first.scaling_mean, T.mean(dim=(0, 2, 3)).numpy(), atol=1e-6)


def test_heads_that_attend_evenly_and_heads_that_are_silent() -> None:
    network = LHCNet(**SHAPE, modules=ROWS, seed=0)
    with torch.no_grad():
        for slot in network.attention:
            slot.lhc.w1.zero_()  # no scores: T is 1/2 and attention even
            slot.lhc.conv.weight.zero_()  # no values: nothing to correlate
    found = heads.head_statistics(network, faces(2), input_size=SIZE, device=CPU)
    for module in found:
        np.testing.assert_allclose(module.entropy, 1, atol=1e-6)
        np.testing.assert_allclose(module.quantiles(), 0.5, atol=0.001)
        assert len(module.pairs()) == 0


def test_heads_that_agree_correlate() -> None:
    matrix = np.array([[1, 0.2, np.nan], [0.2, 1, 0.6], [np.nan, 0.6, 1]])
    some = heads.HeadStatistics(1.0, matrix, *[np.empty(0)] * 5)
    assert some.pairs().tolist() == [0.2, 0.6]


# the folder


def test_what_is_written_comes_back(analysed: run.Analysis, tmp_path: Path) -> None:
    write(analysed, tmp_path / "out")
    back = read(tmp_path / "out")
    assert isinstance(back, run.Analysis)
    assert back.report == analysed.report
    assert set(back.arrays) == set(analysed.arrays)
    assert all(np.array_equal(array, back.arrays[name], equal_nan=True) for name, array in analysed.arrays.items())
    (tmp_path / "out" / "arrays.npz").write_bytes(b"no arrays")
    with pytest.raises(LhcnetError, match=r"arrays\.npz"):
        read(tmp_path / "out")
    write(Skipped(skipped="B/se has no LHC modules"), tmp_path / "out")
    assert read(tmp_path / "out") == Skipped(skipped="B/se has no LHC modules")


def test_tables_are_numbers(analysed: run.Analysis) -> None:
    found = analysis_tables(analysed.report)
    heads = found["heads"].data
    single = analysed.report.necessity.single
    assert heads["accuracy"].tolist() == [x.score.accuracy for x in single]
    assert heads["significant"].tolist() == [x.significant for x in single]
    assert heads["difference"].tolist() == [x.score.accuracy - analysed.report.necessity.full.accuracy for x in single]
    correlation = found["correlation"].data
    assert correlation["correlation"].isna().tolist() == [False] * 4 + [True, False, True]  # LHC5 has one head
    assert found["needed"].data["heads_needed"].tolist()[-1] == 16
    for table in found.values():
        numbers = table.data.select_dtypes("number")
        assert len(table.data) > 0
        assert numbers.shape[1] >= 2, table.title


def test_the_report_is_what_the_arrays_say(
    analysed: run.Analysis, saved: SavedModel, stores: tuple[Path, Path]
) -> None:
    report, arrays = analysed.report, analysed.arrays
    images, labels = open_store(stores[0]).split("validation")
    assert (report.n, report.model, report.necessity.heads) == (len(labels), saved.id, (4, 4, 4, 4, 1))
    by_hand = predict(saved.network(), images, plain_views(), input_size=SIZE, device=CPU).argmax(1)
    assert np.array_equal(arrays["predicted"][0], by_hand)
    assert report.necessity.full.accuracy == pytest.approx((by_hand == labels).mean())
    first = plan(report.necessity.heads).index(lose_module(report.necessity.heads, 0, "off"))
    accuracy = (arrays["predicted"][first + 1] == labels).mean()
    assert report.necessity.modules[0].score.accuracy == pytest.approx(accuracy)
    matrix = arrays["correlation/LHC1"]
    pairs = matrix[np.triu_indices(4, 1)]
    assert (report.modules[0].correlation_mean, report.modules[0].correlation_max) == (
        pytest.approx(pairs.mean()),
        pytest.approx(pairs.max()),
    )
    assert report.modules[4].correlation_max is None  # one head


def test_figures_are_drawn_from_the_folder(analysed: run.Analysis, tmp_path: Path) -> None:
    report = analysed.report
    first, *others = (part.model_copy(update={"p": 0.5}) for part in report.necessity.modules)
    parts = {"modules": (first.model_copy(update={"p": 0.01}), *others)}
    report = report.model_copy(update={"necessity": report.necessity.model_copy(update=parts)})
    write(run.Analysis(report, analysed.arrays), tmp_path / "out")
    read_back = read(tmp_path / "out")
    assert isinstance(read_back, run.Analysis)
    drawn = figures.figures(read_back)
    assert len({drawing.title for drawing in drawn}) == 8
    for drawing in drawn:
        drawing.figure.draw_without_rendering()
    modules, single, curve = (drawing.figure for drawing in drawn[:3])
    off = [100 * x.score.accuracy for x in report.necessity.modules if x.kind == "off"]
    points = [c for c in modules.axes[0].collections if np.allclose(np.shape(c.get_offsets()), (5, 2))]
    assert np.allclose(points[0].get_offsets()[:, 1], off)
    hollow = [(colour[:3] == 1).all() for colour in points[0].get_facecolors()]
    assert hollow == [False, True, True, True, True]
    assert len(single.axes) == 5
    assert any("16 of 31" in str(text.get_text()) for text in curve.legends[0].get_texts())


def test_blocks_are_means() -> None:
    W = np.arange(36.0).reshape(6, 6)
    assert np.array_equal(figures.blocks(W, 6), W)
    assert np.array_equal(figures.blocks(W, 3), W.reshape(3, 2, 3, 2).mean(axis=(1, 3)))
    assert figures.blocks(np.ones((100, 100)), 64).shape == (64, 64)


def test_rows_are_spread_over_the_classes(stores: tuple[Path, Path]) -> None:
    _, labels = open_store(stores[0]).split("train")
    assert (np.diff(labels) >= 0).all()  # the order that `evenly_spaced` relies on
    chosen = labels[run.evenly_spaced(len(labels), 100)]
    assert len(chosen) == 100
    share, whole = (np.bincount(x, minlength=7) / len(x) for x in (chosen, labels))
    np.testing.assert_allclose(share, whole, atol=0.011)
    assert run.evenly_spaced(5, 9).tolist() == [0, 1, 2, 3, 4]


# Table A2


def test_table_a2_is_as_printed() -> None:
    rows = PAPER_TABLE_A2
    assert len(rows) == 26
    assert [row.accuracy for row in rows] == sorted(row.accuracy for row in rows)
    assert sum(row.tta for row in rows) == 19
    assert {row.model: (row.params, row.share) for row in rows if row.share} == {
        "SE-Net50 [41]": (27, 5.18),
        "BAMRN50 [38] *": (24.07, 1.62),
        "CBAMRN50 [38]": (28.09, 9),
        "LHC-Net": (32.4, 14.8),
        "LHC-NetC": (32.4, 14.8),
        "RM-Net [38]": (142.9, 80.7),
    }


def test_sizes_are_counted_in_the_networks(tmp_path: Path) -> None:
    sizes.write(sizes.count(), tmp_path / "sizes.csv")
    assert (tmp_path / "sizes.csv").read_bytes() == sizes.COUNTED.read_bytes(), "lhcnet sizes --out writes it anew"


def test_sizes_are_those_of_table_a2(analysed: run.Analysis) -> None:
    found = {size.model: size for size in analysed.report.sizes}
    assert len(found) == len(analysed.report.sizes) == 17
    ours = found["LHC-Net"]
    assert (ours.params, ours.attention, round(ours.share, 1)) == (32_411_668, 4_805_444, 14.8)
    assert (found["LHC-NetC"].params, found["LHC-NetC"].attention) == (ours.params + 5, ours.attention + 5)
    assert found["ResNet34v2"].params == ours.params - ours.attention == 27_606_224
    assert (found["VGG19 [38]"].params, found["Dense121 [38]"].params) == (143_667_240, 8_062_504)  # as Keras' own
    others = {"Incep.v1 [38] *", "ResNet34 [40]", "ResNet34 [38]", "SE-Net50 [41]"}  # the paper counted other heads
    for name, size in found.items():
        assert size.paper_params is not None
        near = abs(size.params / 1e6 - size.paper_params) < 0.002 * size.paper_params
        assert near == (name not in others), name
    assert found["CBAMRN50 [38]"].share == pytest.approx(9, abs=0.1)


def test_sizes_without_timm_leave_its_rows_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> torch.nn.Module:
        raise ModuleNotFoundError("timm")

    few = {"LHC-Net": sizes._BUILDERS["LHC-Net"], "SE-Net50": ("timm", missing, lambda _: False)}
    monkeypatch.setattr(sizes, "_BUILDERS", few)
    assert [size.model for size in sizes.count()] == ["LHC-Net"]
