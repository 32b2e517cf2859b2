"""MLflow's model registry: a model directory becomes a version of a registered model.

The newest version has the alias `challenger`; the gate (`protocol/gate.py`) says whether it becomes `champion` as well.
Each version is judged once: registering the same weights again changes neither its decision nor the champion.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from lhcnet.protocol.gate import PREDICTIONS, ChampionRule, ValidationResult, Verdict, judge
from lhcnet.serving.package import pyfunc_arguments
from lhcnet.tracking import bounded
from lhcnet.tracking.champions import CHALLENGER, DECIDED, GATE, SINCE, champion, make_champion, set_alias
from lhcnet.tracking.delivery import delivered_run
from lhcnet.tracking.journal import journal_root
from lhcnet.tracking.mlflow_runs import CACHED, KEY, PARENT_TAG, REGISTERED_TAG, WEIGHTS_TAG
from lhcnet.tracking.store import file_lock, mlflow_errors, open_client
from lhcnet.tracking.target import default_uri
from lhcnet.tracking.watchdog import WATCHDOG

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lhcnet.tracking.journal import StepRun

UPLOAD_SPEED = 1e6  # bytes per second that an upload needs at least
CARD = "MODEL_CARD.md"
MODEL = "model"  # folder of the model directory in what is registered
_LONGEST = 5000  # characters of a version's description in MLflow's databases
_DESCRIPTION = (
    "LHC-Net for facial expression recognition. `challenger` is the newest version, `champion` the one to use."
)


def register(run: StepRun, name: str, content: Path, *, rule: ChampionRule, tags: Mapping[str, str]) -> dict[str, Any]:
    """Log a model as pyfunc, register it, and set the aliases.

    The journal of the step, and what earlier steps of its execution left, are written to MLflow first. Registering
    the same weights again makes no new version.

    Args:
        run: the run of the step; its journal is not written by another process.
        name: of the registered model.
        content: a folder with the model directory `model`, `validation.npz` and `MODEL_CARD.md`.
        rule: when the new version becomes champion.
        tags: tags of the version; "weights" is the digest of the weights.

    Returns:
        `version` (number), `champion` (whether it has that alias), `gate` (the reason of the decision).

    Raises:
        LhcnetError: MLflow does not answer as it should.
    """
    with file_lock(journal_root() / "register.lock"):  # two at once would make two versions of the same weights
        return bounded.register(
            run.journal.folder, run=run.name, name=name, content=str(content.absolute()), rule=rule, tags=dict(tags)
        )


def register_in_this_process(
    folder: Path, *, run: str, name: str, content: str, rule: str, tags: Mapping[str, str]
) -> dict[str, Any]:
    """Do the work of `register` in the process that speaks to MLflow.

    Args:
        folder: the step's journal.
        run: name of the step's run in it.
        name: of the registered model.
        content: the folder to register.
        rule: when the new version becomes champion.
        tags: tags of the version.

    Returns:
        As `register`.

    Raises:
        LhcnetError: MLflow does not answer as it should.
    """
    run_id = delivered_run(folder, run)
    uri = default_uri()
    limit = WATCHDOG.limit
    size = sum(file.stat().st_size for file in Path(content).rglob("*") if file.is_file())
    with mlflow_errors(uri):
        with WATCHDOG.call():
            client, experiment = open_client()
            version = _version_of_weights(client, name, tags["weights"])
        if version is None:
            with WATCHDOG.call():
                verdict = _verdict(client, name, Path(content), cast("ChampionRule", rule))
                source = training_run(client, experiment, tags["weights"], run_id)
            WATCHDOG.limit = limit + size / UPLOAD_SPEED
            with WATCHDOG.call():
                made = _new_version(client, (run_id, source), name, Path(content), verdict, tags, uri)
            WATCHDOG.limit = limit
            # of machines that register the same weights at once, each finds the first version that was made
            version = _version_of_weights(client, name, tags["weights"]) or made
            if version != made:
                client.delete_model_version(name, str(made))
        with WATCHDOG.call():
            return _set_aliases(client, name, version)


def _verdict(client: MlflowClient, name: str, content: Path, rule: ChampionRule) -> Verdict:
    present = champion(client, name)
    of_champion = _stored_result(client, name, present) if present and rule != "never" else None
    return judge(rule, ValidationResult.read(content / PREDICTIONS), present, of_champion)


def _stored_result(client: MlflowClient, name: str, version: str) -> ValidationResult | None:
    """The validation result that was stored with a version; None if there is none, or it cannot be read."""
    from mlflow.artifacts import download_artifacts

    source = client.get_model_version_download_uri(name, version)
    with TemporaryDirectory(prefix="lhcnet-") as folder:
        try:
            got = download_artifacts(
                artifact_uri=f"{source}/artifacts/{PREDICTIONS}", dst_path=folder, tracking_uri=default_uri()
            )
            return ValidationResult.read(Path(got))
        except Exception:  # every store of artifacts raises its own errors where a file is missing
            return None


def training_run(client: MlflowClient, experiment: str, weights: str, step_run: str) -> str:
    """The run that a version of these weights comes from.

    It is the training's run: that of the same execution; else the oldest that trained the same weights, if this
    execution took the model from a cache. If the training has not been written to MLflow yet, it is the run that
    `register` entered from the model's files, which the training's journal completes later. If there is none, it is
    the run of `register` itself.
    """
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    found = client.search_runs([experiment], f"tags.`{WEIGHTS_TAG}` = '{weights}'", order_by=order, max_results=1000)
    runs = [run for run in found if "/train/" in run.data.tags.get(KEY, "")]
    parent = client.get_run(step_run).data.tags.get(PARENT_TAG)
    runs.sort(key=lambda run: (CACHED in run.data.tags, run.data.tags.get(PARENT_TAG) != parent))
    return str(runs[0].info.run_id) if runs else step_run


def _set_aliases(client: MlflowClient, name: str, version: str) -> dict[str, Any]:
    """Set `challenger`, and `champion` where the gate said so and it was not done yet: a roll-back stays."""
    tags = client.get_model_version(name, version).tags
    set_alias(client, name, CHALLENGER, version)
    if tags.get(DECIDED) == "yes" and SINCE not in tags:
        make_champion(client, name, version)
    return {
        "version": int(version),
        "champion": champion(client, name) == str(version),
        "gate": tags.get(GATE, "challenger: registered without a decision"),
    }


def _version_of_weights(client: MlflowClient, name: str, weights: str) -> str | None:
    """The first version that has these weights, or None; the registered model is made if it does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=_DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{name}'")
    own = [int(version.version) for version in versions if version.tags.get("weights") == weights]
    return str(min(own)) if own else None


def _new_version(
    client: MlflowClient,
    runs: tuple[str, str],
    name: str,
    content: Path,
    verdict: Verdict,
    tags: Mapping[str, str],
    uri: str,
) -> str:
    """Log the content, with the code of this package, as a pyfunc of the step's run, and make a version of it.

    Args:
        runs: ids of the step's run and of the training's, which is the version's source.
    """
    step_run, run_id = runs
    import mlflow

    mlflow.set_tracking_uri(uri)
    arguments = pyfunc_arguments(content / MODEL)
    arguments["artifacts"] |= {"card": str(content / CARD), "validation": str(content / PREDICTIONS)}
    # in the step's own run, which is open anyway: start_run would open and end the training's again
    with mlflow.start_run(run_id=step_run):
        logged = mlflow.pyfunc.log_model(name="model", **arguments)
    if "MLFLOW_RUN_ID" in os.environ:  # start_run ended it, but its owner is to end it
        client.update_run(step_run, status="RUNNING")
    card = (content / CARD).read_text(encoding="utf-8")
    decision = {GATE: verdict.reason, DECIDED: "yes" if verdict.champion else "no"}
    if verdict.test is not None:
        decision |= {"gate_p_value": f"{verdict.test.p:.4g}", "gate_difference": f"{verdict.test.difference:+.4f}"}
    created = client.create_model_version(
        name,
        logged.model_uri,
        run_id=run_id,
        model_id=logged.model_id,
        tags={**tags, **decision},
        description=f"{card}\n## Gate\n\n{verdict.reason}.\n"[:_LONGEST],
    )
    client.set_tag(run_id, REGISTERED_TAG, f"{name} version {created.version}")
    return str(created.version)
