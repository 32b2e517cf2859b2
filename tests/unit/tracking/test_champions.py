"""Champions of a registered model: the gate with what the registry stores, roll-back, and the history."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pytest
from typer.testing import CliRunner

from lhcnet.cli import app
from lhcnet.errors import LhcnetError
from lhcnet.protocol.gate import PREDICTIONS, ValidationResult
from lhcnet.tracking import registry
from lhcnet.tracking.champions import ROLLED_BACK, SINCE, champion, make_champion, roll_back, show
from lhcnet.tracking.mlflow_runs import CACHED, KEY, PARENT_TAG, WEIGHTS_TAG

LABELS = np.arange(100, dtype=np.uint8) % 7


def content(folder: Path, right: int) -> Path:
    """What is registered, of a model that classifies `right` images of validation correctly."""
    (folder / "artifacts").mkdir(parents=True)
    predicted = np.where(np.arange(100) < right, LABELS, (LABELS + 1) % 7).astype(np.uint8)
    ValidationResult("d" * 64, predicted, LABELS).save(folder / "artifacts" / PREDICTIONS)
    return folder


@pytest.fixture
def client(tracking: str) -> mlflow.MlflowClient:
    found = mlflow.MlflowClient(tracking)
    found.create_registered_model("faces")
    return found


def add(client: mlflow.MlflowClient, source: str = "runs:/x/y", **tags: str) -> str:
    return str(client.create_model_version("faces", source, tags=tags).version)


def champions(client: mlflow.MlflowClient, count: int) -> None:
    """Versions 1 to `count`, which became champion one after the other."""
    for _ in range(count):
        make_champion(client, "faces", add(client, trained_as="C/seed-1", gate="champion: first"))


def rolled_back(client: mlflow.MlflowClient) -> list[int]:
    return [version.number for version in show("faces") if version.rolled_back]


def test_roll_back_goes_from_champion_to_champion(client: mlflow.MlflowClient) -> None:
    champions(client, 3)
    add(client)  # a challenger
    assert roll_back("faces") == ("3", "2")
    assert rolled_back(client) == [3]
    assert roll_back("faces") == ("2", "1")
    assert rolled_back(client) == [2, 3]
    with pytest.raises(LhcnetError, match="version 1 is champion, and none was before it"):
        roll_back("faces")
    assert roll_back("faces", to=3) == ("1", "3")
    assert rolled_back(client) == [2]
    assert roll_back("faces") == ("3", "1")
    with pytest.raises(LhcnetError, match="version 4 was never champion; expected one of 1, 2, 3"):
        roll_back("faces", to=4)
    assert champion(client, "faces") == "1"


def test_a_champion_after_a_roll_back_goes_back_to_the_one_before(client: mlflow.MlflowClient) -> None:
    champions(client, 2)
    roll_back("faces")
    champions(client, 1)
    assert champion(client, "faces") == "3"
    assert roll_back("faces") == ("3", "1")


def test_registering_again_does_not_undo_a_roll_back(client: mlflow.MlflowClient) -> None:
    for weights in ("a", "b"):
        version = add(client, weights=weights, gate_champion="yes", gate="champion: why")
        assert registry._set_aliases(client, "faces", version)["champion"]
    roll_back("faces")
    version = registry._version_of_weights(client, "faces", "b")
    assert version == "2"
    done = registry._set_aliases(client, "faces", version)
    assert done == {"version": 2, "champion": False, "gate": "champion: why"}
    assert champion(client, "faces") == "1"
    assert client.get_model_version_by_alias("faces", "challenger").version == 2
    assert ROLLED_BACK in client.get_model_version("faces", "2").tags


@pytest.mark.parametrize("write", ["set_registered_model_alias", "set_model_version_tag"])
def test_a_champion_is_made_though_another_process_wrote_the_same_at_once(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    real, calls = getattr(client, write), []

    def refused_once(*arguments: str) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("UNIQUE constraint failed")
        real(*arguments)

    version = add(client)
    monkeypatch.setattr(client, write, refused_once)
    make_champion(client, "faces", version)
    assert len(calls) == 2
    assert champion(client, "faces") == version
    assert SINCE in client.get_model_version("faces", version).tags


def test_a_challenger_stays_a_challenger(client: mlflow.MlflowClient) -> None:
    version = add(client, weights="a", gate_champion="no", gate="challenger: why")
    assert not registry._set_aliases(client, "faces", version)["champion"]
    assert SINCE not in client.get_model_version("faces", version).tags
    assert champion(client, "faces") == ""


def test_the_commands(client: mlflow.MlflowClient) -> None:
    champions(client, 2)
    done = CliRunner().invoke(app, ["registry", "rollback", "faces"])
    assert done.stdout == "faces: version 1 is champion; before: version 2\n"
    lines = CliRunner().invoke(app, ["registry", "show", "faces"]).stdout.splitlines()
    assert lines[0] == "version 1 (champion): C/seed-1"
    assert lines[2] == "  champion: first"
    assert ", rolled back 20" in lines[4]
    with pytest.raises(LhcnetError, match="has no version of a registered model 'x'"):
        show("x")


def test_the_gate_compares_with_what_is_stored_with_the_champion(client: mlflow.MlflowClient, tmp_path: Path) -> None:
    new = content(tmp_path / "new", right=50) / "artifacts"
    assert registry._verdict(client, "faces", new, "not_worse").reason.startswith("champion: the first version")
    make_champion(client, "faces", add(client, str(content(tmp_path / "old", right=51))))
    verdict = registry._verdict(client, "faces", new, "not_worse")
    assert not verdict.champion
    assert "accuracy 0.5000 against 0.5100 on the same 100 images" in verdict.reason
    make_champion(client, "faces", add(client, str(tmp_path / "nothing")))
    assert "version 2, the champion, has no readable" in registry._verdict(client, "faces", new, "not_worse").reason


def test_the_source_is_the_training_of_the_same_execution_and_else_the_first(client: mlflow.MlflowClient) -> None:
    experiment = client.create_experiment("lhcnet")

    def run(at: int, key: str, **tags: str) -> str:
        made = client.create_run(experiment, start_time=at, tags={KEY: key} | tags)
        return str(made.info.run_id)

    own, other = run(9, "new/register", **{PARENT_TAG: "new"}), run(8, "third/register", **{PARENT_TAG: "third"})
    assert registry.training_run(client, experiment, "w", own) == own
    run(1, "new/select/ABC", **{WEIGHTS_TAG: "w", PARENT_TAG: "new"})
    restored = run(2, "new/train/A/seed-0", **{WEIGHTS_TAG: "w", PARENT_TAG: "new", CACHED: "true"})
    assert registry.training_run(client, experiment, "w", own) == restored
    first = run(3, "old/train/A/seed-0", **{WEIGHTS_TAG: "w", PARENT_TAG: "old"})
    assert registry.training_run(client, experiment, "w", own) == first
    again = run(4, "third/train/A/seed-0", **{WEIGHTS_TAG: "w", PARENT_TAG: "third"})
    assert registry.training_run(client, experiment, "w", other) == again
    assert registry.training_run(client, experiment, "w", own) == first
