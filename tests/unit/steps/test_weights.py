"""A model's weights are bound to what selection, evaluation, analysis and registry say of them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from threading import Barrier
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lhcnet import steps
from lhcnet.config import Config, Registry
from lhcnet.errors import LhcnetError
from lhcnet.protocol.gate import PREDICTIONS, ValidationResult
from lhcnet.saved import FILES, open_model, save
from lhcnet.steps import fit_model
from lhcnet.tracking import registry


@pytest.fixture
def flow(direct: Path, tmp_path: Path) -> Path:
    """A copy of the whole flow's results that a test may damage."""
    return Path(shutil.copytree(direct, tmp_path / "flow"))


def flip_bit(model: Path) -> None:
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1001] ^= 0x40
    (model / "model.safetensors").write_bytes(content)


def replace_weights(model: Path) -> None:
    """Write the model again with other weights, and with their digest in its own record."""
    saved = open_model(model)
    network = saved.network()
    with torch.no_grad():
        network.logits.weight.zero_()
    save(model, network, saved.info, saved.metrics, saved.history)


def readers(flow: Path, stores: tuple[Path, Path], config: Config) -> dict[str, Callable[[], object]]:
    """Each step that reads weights -> a call of it."""
    context, out = steps.RunContext(compute=config.compute), flow / "out"
    models = [flow / "a" / "seed-0", flow / "b" / "wide", flow / "b" / "narrow", flow / "c" / "seed-1"]
    settings: dict[str, Any] = {"evaluation": config.evaluation, "context": context}
    selection, chosen = flow / "selection.json", flow / "chosen"
    return {
        "evaluate": lambda: steps.evaluate(models, selection, *stores, out, **settings),
        "control": lambda: steps.control(models, selection, stores[0], out, control=config.control, context=context),
        "register": lambda: registered(flow, out, "x"),
        "analyse": lambda: steps.analyse(chosen, stores[0], out, analysis=config.analysis, **settings),
        "train": lambda: steps.train_stage(
            stores[0], chosen, out, stage_number=4, stage=config.stage4, seed=0, context=context
        ),
        "evaluate_weights": lambda: steps.evaluate_weights(chosen, *stores, **settings),
        "insert": lambda: steps.insert_lhc(
            flow / "backbone" / "stage3", out, variant=config.variant("wide"), set_="B", seed=0
        ),
        "select": lambda: steps.select(
            models, [flow / "backbone" / "stage3"], out, loss_factor=9.0, chosen=flow / "new"
        ),
    }


def registered(flow: Path, out: Path, name: str) -> dict[str, Any]:
    return steps.register(
        flow / "chosen",
        flow / "evaluation",
        out,
        data_report=flow / "data_report.json",
        registry=Registry(model=name),
        execution="x",
    )


READERS = ("evaluate", "control", "register", "analyse", "train", "evaluate_weights", "insert", "select")


@pytest.mark.parametrize("step", READERS)
def test_one_altered_bit_stops_every_step(step: str, flow: Path, one_seed: Config) -> None:
    for model in (flow / "chosen", flow / "backbone" / "stage3", *(flow / "b").iterdir(), *(flow / "c").iterdir()):
        flip_bit(model)
    with pytest.raises(LhcnetError, match=r"model\.safetensors: its SHA-256 is .*, but model\.json says"):
        readers(flow, (flow / "trainval", flow / "test"), one_seed)[step]()
    assert not (flow / "out").exists()


@pytest.mark.parametrize("step", ["evaluate", "control", "register"])
def test_other_weights_under_the_same_id_are_refused(step: str, flow: Path, one_seed: Config) -> None:
    for model in (flow / "chosen", *(flow / "b").iterdir(), *(flow / "c").iterdir()):
        replace_weights(model)
    with pytest.raises(LhcnetError, match=r"have the SHA-256 .*, but .*(selection|evaluation)\.json was made for"):
        readers(flow, (flow / "trainval", flow / "test"), one_seed)[step]()
    assert not (flow / "out").exists()


@pytest.mark.parametrize(
    ("file", "says"),
    [("evaluation/evaluation.json", "scored other weights of"), ("analysis/analysis.json", "with other weights than")],
)
def test_compare_refuses_results_of_other_weights(file: str, says: str, flow: Path) -> None:
    values = json.loads((flow / file).read_text())
    (values["models"][0] if "models" in values else values)["weights"] = "0" * 64
    (flow / file).write_text(json.dumps(values))
    with pytest.raises(LhcnetError, match=says):
        steps.compare(
            flow / "selection.json",
            flow / "evaluation",
            flow / "out",
            data_report=flow / "data_report.json",
            analysis=flow / "analysis",
        )


def test_outputs_that_are_not_finite_are_no_score(flow: Path, one_seed: Config) -> None:
    chosen = open_model(flow / "chosen")
    network = chosen.network()
    with torch.no_grad():
        network.logits.weight.fill_(3e38)
        network.logits.bias.fill_(3e38)
        network.hidden[-1].bias.fill_(3e38)
    save(flow / "chosen", network, chosen.info, chosen.metrics, chosen.history)
    with pytest.raises(LhcnetError, match="cannot be scored on validation: the network's outputs are not finite"):
        readers(flow, (flow / "trainval", flow / "test"), one_seed)["evaluate_weights"]()


def test_select_copies_the_four_files_alone(flow: Path, one_seed: Config) -> None:
    for model in (*(flow / "b").iterdir(), *(flow / "c").iterdir()):
        (model / "notes.txt").symlink_to("/etc/hostname")
        (model / "ssl").symlink_to("/etc")
        (model / "zero").symlink_to("/dev/zero")
        (model / "model.pkl").write_bytes(b"x")
    readers(flow, (flow / "trainval", flow / "test"), one_seed)["select"]()
    assert sorted(file.name for file in (flow / "new").iterdir()) == sorted(FILES)


def test_a_model_of_links_into_a_cache_is_registered(flow: Path, tracking: str, tmp_path: Path) -> None:
    """DVC with `cache.type symlink` makes every file of a model directory a link; foreign files are not published."""
    (flow / "chosen").rename(tmp_path / "cache")
    (flow / "chosen").mkdir()
    for file in (tmp_path / "cache").iterdir():
        (flow / "chosen" / file.name).symlink_to(file)
    (flow / "chosen" / "notes.txt").symlink_to("/etc/hostname")
    done = registered(flow, tmp_path / "r.json", "linked")
    client = mlflow.MlflowClient(tracking)
    version = client.get_model_version("linked", str(done["version"]))
    assert version.tags["weights"] == open_model(flow / "chosen").weights_digest()
    logged = mlflow.artifacts.download_artifacts("models:/linked@champion", dst_path=str(tmp_path / "got"))
    (published,) = {path.parent for path in Path(logged).rglob("model.safetensors")}
    assert sorted(file.name for file in published.iterdir()) == sorted(FILES)


def test_the_gate_gets_predictions_on_validation_alone(
    flow: Path, tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[ValidationResult] = []

    def register(_: object, __: str, content: Path, **___: object) -> dict[str, Any]:
        assert {file.name for file in content.iterdir()} == {"model", PREDICTIONS, "MODEL_CARD.md"}
        got.append(ValidationResult.read(content / PREDICTIONS))
        return {"version": 1, "champion": False, "gate": "challenger: why"}

    monkeypatch.setattr(import_module("lhcnet.steps.register"), "register_model", register)
    done = registered(flow, tmp_path / "r.json", "faces")
    assert (done["alias"], done["gate"]) == ("challenger", "challenger: why")
    with np.load(flow / "evaluation" / "predictions.npz") as saved:
        expected = saved[f"{done['model']}/validation"].argmax(1)
        assert (got[0].predicted == expected).all()
        assert (got[0].labels == saved["labels/validation"]).all()
    assert got[0].data == open_model(flow / "chosen").info.provenance.data


def test_the_same_weights_registered_at_once_are_one_version(
    tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both processes find no version, and each makes one: the later one is withdrawn."""
    client, both = mlflow.MlflowClient(tracking), Barrier(2)

    def made(_: object, __: object, name: str, ___: Path, ____: object, tags: Any, uri: str) -> str:
        both.wait(timeout=60)
        return str(client.create_model_version(name, "runs:/x/y", tags=dict(tags)).version)

    monkeypatch.setattr(registry, "delivered_run", lambda folder, run: run)
    monkeypatch.setattr(registry, "_new_version", made)
    monkeypatch.setattr(registry, "default_uri", lambda: tracking)
    monkeypatch.setattr(registry, "open_client", lambda: (client, None))
    monkeypatch.setattr(registry, "training_run", lambda *_: "run")
    monkeypatch.setattr(registry, "_verdict", lambda *_: None)
    with ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(
                registry.register_in_this_process,
                tmp_path,
                run=f"run{i}",
                name="twice",
                content=str(tmp_path),
                rule="not_worse",
                tags={"weights": "w", "gate_champion": "yes"},
            )
            for i in range(2)
        ]
        versions = [call.result() for call in calls]
    assert [version["version"] for version in versions] == [1, 1]
    assert [version.version for version in client.search_model_versions("name = 'twice'")] == [1]
    assert client.get_model_version_by_alias("twice", "champion").version == 1


def test_memory_that_runs_out_in_a_training_is_one_sentence(
    flow: Path, one_seed: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lhcnet.training import loop

    def without_memory(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(loop, "train_epoch", without_memory)
    with pytest.raises(LhcnetError, match=r"stage4: there is not enough memory: lower stage4\.batch_size"):
        readers(flow, (flow / "trainval", flow / "test"), one_seed)["train"]()


def test_a_training_says_what_it_needs_before_it_begins(
    flow: Path, one_seed: Config, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="lhcnet")
    readers(flow, (flow / "trainval", flow / "test"), one_seed)["train"]()
    module = fit_model.__name__.split(".")[-1]
    memory, duration, start = [record.getMessage() for record in caplog.records if record.module == module][:3]
    assert "parameters, about" in memory
    assert re.search(r"\d+ training and \d+ validation images, \d+ batches an epoch, 1 threads, float32$", memory)
    wanted = r"about \d+:\d\d:\d\d an epoch, at most \d+:\d\d:\d\d for all (\d+), \d+\.\d\d GiB of memory$"
    assert (epochs := re.search(wanted, duration))
    assert re.search(rf"epoch 0 of {epochs[1]}: validation accuracy \d\.\d+, at most \d+:\d\d:\d\d left$", start)


def test_the_weights_file_alone_is_not_enough(flow: Path) -> None:
    """Weights replaced in place, without model.json: what the file says of itself decides nothing."""
    file = flow / "chosen" / "model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}, file)
    with pytest.raises(LhcnetError, match="its SHA-256 is"):
        open_model(flow / "chosen").network()
