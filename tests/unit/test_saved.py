from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lhcnet.config import parse
from lhcnet.errors import LhcnetError
from lhcnet.saved import (
    FILES,
    Architecture,
    Epoch,
    Fitted,
    Metrics,
    ModelInfo,
    Provenance,
    open_facts,
    open_model,
    save,
    save_unfinished,
)

ARCHITECTURE = Architecture(
    input_size=32, depths=(1, 1, 1, 1), widths=(4, 4, 4, 4), head=(8,), dropout=0.4, bn_momentum=0.1
)
INFO = ModelInfo(
    architecture=ARCHITECTURE,
    provenance=Provenance(id="A/seed-0", set="A", stage=4, seed=0, variant=None, data="d" * 64, start="none"),
)
HISTORY = (
    Epoch(epoch=0, val_loss=1.9, val_accuracy=0.2),
    Epoch(epoch=1, train_loss=1.5, train_accuracy=0.4, val_accuracy=0.3),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "model"
    save(target, ARCHITECTURE.build(seed=3), INFO, Metrics(status="trained", train_loss=1.5), HISTORY)
    return target


def correct_digest(folder: Path) -> None:
    """Bind model.json to the weights that are there, as an attacker could."""
    info = json.loads((folder / "model.json").read_text())
    info["weights"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(info))


def unbound(info: ModelInfo) -> ModelInfo:
    return info.model_copy(update={"weights": None})


def test_what_is_saved_comes_back(folder: Path) -> None:
    saved = open_model(folder)
    assert (unbound(saved.info), saved.metrics.train_loss) == (INFO, 1.5)
    assert saved.info.weights == saved.weights_digest()
    assert saved.history == HISTORY
    images = torch.rand(2, 3, 32, 32) * 255
    expected = ARCHITECTURE.build(seed=3).eval()
    with torch.inference_mode():
        torch.testing.assert_close(saved.network()(images), expected(images), rtol=0, atol=0)


def test_the_learning_rate_is_a_column_only_where_it_changes(folder: Path, tmp_path: Path) -> None:
    columns = "epoch,train_loss,train_accuracy,grad_norm,val_loss,val_accuracy"
    assert (folder / "history.csv").read_text().splitlines()[0] == columns
    rates = (HISTORY[0], HISTORY[1].model_copy(update={"learning_rate": 0.05}))
    save(tmp_path / "annealed", ARCHITECTURE.build(seed=3), INFO, Metrics(status="trained"), rates)
    lines = (tmp_path / "annealed" / "history.csv").read_text().splitlines()
    assert lines[0] == columns.replace("grad_norm,", "grad_norm,learning_rate,")
    assert lines[2] == "1,1.5,0.4,,0.05,,0.3"
    assert open_model(tmp_path / "annealed").history == rates


def test_a_copy_gets_what_was_fitted_and_the_same_weights(folder: Path, tmp_path: Path) -> None:
    saved = open_model(folder)
    assert (saved.temperature, saved.temperature_tta) == (None, None)
    assert "fitted" not in json.loads((folder / "model.json").read_text())
    fitted = Fitted(temperature=1.3, temperature_tta=0.9, tta_families=("flip",), tta_rotation=0.15)
    for name in ("fitted", "plain"):
        (tmp_path / name).mkdir()
    saved.copy(tmp_path / "fitted", fitted=fitted)
    again = open_model(tmp_path / "fitted")
    assert (again.info.fitted, again.temperature, again.temperature_tta) == (fitted, 1.3, 0.9)
    assert again.weights_digest() == saved.weights_digest()
    assert again.info.model_copy(update={"fitted": None}) == saved.info
    saved.copy(tmp_path / "plain")
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "plain" / file.name).read_bytes(), file.name


def test_nothing_is_pickled(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [
        "history.csv",
        "metrics.json",
        "model.json",
        "model.safetensors",
    ]


def test_saving_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    metrics = Metrics(status="trained", train_loss=1.5)
    save(tmp_path / "again", ARCHITECTURE.build(seed=3), INFO, metrics, HISTORY)
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.json", "{", "model.json: expected a JSON file"),
        (
            "model.json",
            '{"schema_version": 2}',
            "model.json: has schema version 2, but this lhcnet reads version 1",
        ),
        ("model.json", '{"format": 1}', "model.json: has no schema version"),
        ("metrics.json", '{"status": "fine"}', "metrics.json: status"),
        ("history.csv", "epoch,val_loss\n0,low\n", "history.csv: expected one row of numbers"),
        ("model.safetensors", "not weights", "model.safetensors: its SHA-256 is"),
    ],
)
def test_a_damaged_directory_is_one_sentence(folder: Path, name: str, content: str, says: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(LhcnetError, match=says) as error:
        open_model(folder).network()
    assert "\n" not in str(error.value)


ROW = {"heads": 1, "d": 2}
OPTIONS = {"split": "learnt", "norm": "both", "second_conv": True}


def with_modules(*rows: dict[str, object]) -> ModelInfo:
    modules = [*rows, *[ROW] * (5 - len(rows))]
    architecture = parse(Architecture, ARCHITECTURE.to_dict() | {"modules": modules}, "test")
    return INFO.model_copy(update={"architecture": architecture})


@pytest.mark.parametrize(
    "row", [ROW | OPTIONS, {"attention": "se"}, {"attention": "cbam"}, {"attention": "eca"}], ids=str
)
def test_modules_of_every_kind_come_back(row: dict[str, object], tmp_path: Path) -> None:
    info = with_modules(row)
    network = info.architecture.build(seed=3)
    save(tmp_path / "model", network, info, Metrics(status="inserted"), [])
    saved = open_model(tmp_path / "model")
    assert unbound(saved.info) == info
    images = torch.rand(2, 3, 32, 32) * 255
    with torch.inference_mode():
        assert torch.equal(saved.network()(images), network.eval()(images))
        assert not torch.equal(saved.network()(images), with_modules().architecture.build(seed=3).eval()(images))


def test_a_model_from_before_there_were_options_opens(tmp_path: Path) -> None:
    info = with_modules()
    save(tmp_path / "model", info.architecture.build(seed=3), info, Metrics(status="inserted"), [])
    written = json.loads((tmp_path / "model" / "model.json").read_text())
    for row in written["architecture"]["modules"]:
        for option in OPTIONS:
            del row[option]
    (tmp_path / "model" / "model.json").write_text(json.dumps(written))
    saved = open_model(tmp_path / "model")
    assert unbound(saved.info) == info
    saved.network()


@pytest.mark.parametrize(
    ("depths", "name"), [((3, 4, 6, 3), "ResNet34v2"), ((2, 2, 2, 2), "ResNet18v2"), ((1, 1, 1, 1), "ResNet10v2")]
)
def test_the_network_is_named_after_its_depth(depths: tuple[int, int, int, int], name: str) -> None:
    assert ARCHITECTURE.model_copy(update={"depths": depths}).plain_name == name


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    info = json.loads((folder / "model.json").read_text())
    info["architecture"]["head"] = [16]
    (folder / "model.json").write_text(json.dumps(info))
    with pytest.raises(LhcnetError, match="expected the weights of the network"):
        open_model(folder).network()


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    class Broken:
        def state_dict(self) -> dict[str, torch.Tensor]:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        save(tmp_path / "model", Broken(), INFO, Metrics(status="trained"), HISTORY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"widths": [10**4, 1, 1, 1]}, r"model\.safetensors: expected the weights .*size mismatch"),
        ({"depths": [1000, 1, 1, 1]}, r"model\.safetensors: expected the weights .*1004 layers, but"),
        ({"head": [10**7]}, r"model\.safetensors: expected the weights .*size mismatch"),
        ({"widths": [10**6] * 4}, r"model\.json: architecture: the network would have .* GiB of weights"),
        ({"depths": [10**9, 1, 1, 1]}, r"model\.json: architecture.depths.0: .*less than or equal to 1000"),
        ({"head": [10**9]}, r"model\.json: architecture: the network would have 12,\d+,\d+,\d+ parameters"),
        ({"head": [2**31]}, r"model\.json: architecture.head.0: .*less than 2147483648"),
    ],
    ids=str,
)
def test_sizes_that_are_only_claimed_take_no_memory(change: dict[str, object], says: str, folder: Path) -> None:
    info = json.loads((folder / "model.json").read_text())
    info["architecture"] |= change
    (folder / "model.json").write_text(json.dumps(info))
    with pytest.raises(LhcnetError, match=says):
        open_model(folder).network()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.json", "[" * 100_000),
        ("metrics.json", "9" * 5000),
        ("history.csv", 'epoch,val_accuracy\n"' + "x" * 200_000),
        ("history.csv", "epoch,val_accuracy\n0,0.5\n" * 100_000),
        ("model.json", '{"a\\nb": 1}'),
    ],
    ids=["deep", "digits", "cell", "rows", "key"],
)
def test_what_the_fuzzer_found_is_one_sentence(name: str, content: str, folder: Path) -> None:
    (folder / name).write_text(content)
    with pytest.raises(LhcnetError, match=name.replace(".", r"\.")) as error:
        open_model(folder)
    assert str(error.value).isprintable()


def test_other_classes_are_refused(folder: Path) -> None:
    info = json.loads((folder / "model.json").read_text())
    info["classes"] = info["classes"][::-1]
    (folder / "model.json").write_text(json.dumps(info))
    with pytest.raises(LhcnetError, match=r"model\.json: classes: expected anger, disgust"):
        open_model(folder)


@pytest.mark.parametrize("name", ["model.json", "metrics.json", "history.csv", "model.safetensors"])
def test_pipes_are_not_waited_for(name: str, folder: Path) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(LhcnetError, match="not a regular file"):
        open_model(folder).network()


def test_weights_must_be_numbers_of_the_right_type(folder: Path) -> None:
    network = ARCHITECTURE.build(seed=3)
    for change, says in (
        (lambda t: t * float("nan"), "logits.bias holds values that are not finite"),
        (lambda t: t.double(), r"logits.bias is torch.float64, expected torch.float32"),
    ):
        state = network.state_dict() | {"logits.bias": change(network.state_dict()["logits.bias"])}
        save_file(state, folder / "model.safetensors")
        correct_digest(folder)
        with pytest.raises(LhcnetError, match=says):
            open_model(folder).network()


def test_one_altered_bit_is_one_sentence(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    saved = open_model(folder)
    for position in (0, len(whole) // 2, len(whole) - 1):
        altered = bytearray(whole)
        altered[position] ^= 0x40
        (folder / "model.safetensors").write_bytes(altered)
        for read in (saved.network, saved.weights_digest, saved.record, lambda: saved.copy(folder)):
            with pytest.raises(LhcnetError, match=r"model\.safetensors: its SHA-256 is .*, but model\.json says"):
                read()


def test_a_record_without_a_digest_is_of_an_earlier_version(folder: Path) -> None:
    info = json.loads((folder / "model.json").read_text())
    del info["weights"]
    (folder / "model.json").write_text(json.dumps(info))
    with pytest.raises(LhcnetError, match=r"model\.json: weights: has no SHA-256 .* run the step that wrote it again"):
        open_model(folder)


def test_weights_that_only_seem_to_be_huge_are_not_read(folder: Path) -> None:
    saved = open_model(folder)
    os.truncate(folder / "model.safetensors", 2**40)  # sparse
    for read in (saved.network, saved.weights_digest, lambda: saved.copy(folder)):
        with pytest.raises(LhcnetError, match=r"model\.safetensors: expected .*more than [\d,]+ bytes"):
            read()


def test_a_copy_has_the_four_files_alone_and_follows_links_to_their_content(folder: Path, tmp_path: Path) -> None:
    linked, copy = tmp_path / "linked", tmp_path / "copy"
    linked.mkdir()
    copy.mkdir()
    for file in folder.iterdir():  # as DVC links into its cache
        (linked / file.name).symlink_to(file)
    (linked / "notes.txt").symlink_to("/etc/hostname")
    (linked / "zero").symlink_to("/dev/zero")
    (linked / "model.pkl").write_bytes(b"x")
    open_model(linked).copy(copy)
    assert sorted(p.name for p in copy.iterdir()) == sorted(FILES)
    for file in copy.iterdir():
        assert not file.is_symlink()
        assert file.read_bytes() == (folder / file.name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_a_device_in_the_place_of_a_file_is_not_copied(name: str, folder: Path, tmp_path: Path) -> None:
    saved = open_model(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    (tmp_path / "copy").mkdir()
    with pytest.raises(LhcnetError, match="not a regular file"):
        saved.copy(tmp_path / "copy")


def test_all_files_have_the_same_mode(folder: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o666 & ~umask}


def test_facts_are_the_record_without_the_weights(folder: Path, tmp_path: Path) -> None:
    open_model(folder).save_facts(tmp_path / "facts")
    assert sorted(file.name for file in (tmp_path / "facts").iterdir()) == ["facts.json", "history.csv", "metrics.json"]
    facts = open_facts(tmp_path / "facts")
    assert facts.record() == open_model(folder).record() == open_facts(folder).record()
    for use in (
        facts.network,
        facts.weights_digest,
        lambda: facts.copy(tmp_path),
        lambda: open_model(tmp_path / "facts"),
    ):
        with pytest.raises(LhcnetError, match=r"facts: has the facts of .* expected (its|a) model directory"):
            use()


def test_a_model_directory_that_lost_its_weights_is_not_taken_for_facts(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(LhcnetError, match=r"model\.safetensors: expected the weights"):
        open_facts(folder).record()


def test_a_training_that_ended_early_is_a_model_without_weights(tmp_path: Path) -> None:
    save_unfinished(tmp_path / "model", INFO, Metrics(status="time limit", reason="not finished within 5 s"))
    lost = open_model(tmp_path / "model")
    assert (lost.record().weights, lost.record().is_its_start) == (None, False)
    open_model(tmp_path / "model").save_facts(tmp_path / "facts")
    assert open_facts(tmp_path / "facts").record() == lost.record()
    for use in (lost.network, lost.weights_digest, lambda: lost.copy(tmp_path), lost.require_trained):
        with pytest.raises(LhcnetError, match=r"A/seed-0 has no weights, .* .time limit: not finished within 5 s"):
            use()
