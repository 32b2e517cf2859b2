"""Where a model comes from: each link from a registered version to data and code, verified where it can be.

version -> weights -> training run -> parent run -> Kubeflow run -> image -> data -> Git commit
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, cast

from lhcnet.errors import LhcnetError
from lhcnet.io.files import read_json
from lhcnet.io.yaml import read_yaml
from lhcnet.saved import MARKER, WEIGHTS, open_model
from lhcnet.tracking.champions import all_versions, champion, open_registry
from lhcnet.tracking.faults import UNKNOWN
from lhcnet.tracking.kubeflow import RUN_TAG
from lhcnet.tracking.mlflow_runs import CACHED, KEY, PARENT_TAG, WEIGHTS_TAG
from lhcnet.tracking.store import mlflow_errors
from lhcnet.tracking.target import default_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

State = Literal["verified", "not checked", "BROKEN"]
VERIFIED: State = "verified"
NOT_CHECKED: State = "not checked"
BROKEN: State = "BROKEN"
COMMIT, IMAGE = "mlflow.source.git.commit", "image"
_DIGEST = 36  # characters of a data set's digest in MLflow
_HEX = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True)
class Link:
    """A link of the chain: what was found, whether it is as expected, and why or what was expected."""

    name: str
    found: str
    state: State
    why: str = ""


def lineage(model: str, kubeflow_state: Callable[[str], str] | None = None) -> list[Link]:
    """The chain of a model, from the registered version to the Git commit.

    Args:
        model: NAME (its champion), NAME@ALIAS, NAME/VERSION, these after `models:/`, or a model directory.
        kubeflow_state: state of a Kubeflow run by its id; raises LhcnetError if there is none. None: it is not asked.

    Raises:
        LhcnetError: there is no such model, or MLflow does not answer.
    """
    with mlflow_errors(default_uri()):
        client = open_registry()
        folder = Path(model)
        if (folder / MARKER).is_file():
            return _Chain(client, kubeflow_state).of_folder(folder)
        version = _version(client, model)
        with _published(client, version) as (published, problem):
            return _Chain(client, kubeflow_state).of_version(version, published, problem)


def _version(client: MlflowClient, model: str) -> ModelVersion:
    name, at, alias = model.removeprefix("models:/").partition("@")
    if not at:
        name, _, number = name.partition("/")
    versions = all_versions(client, name)
    wanted = str(client.get_registered_model(name).aliases.get(alias, "")) if at else number or champion(client, name)
    for version in versions:
        if str(version.version) == wanted:
            return version
    what = f"alias {alias!r}" if at else f"version {number}" if number else "champion"
    raise LhcnetError(f"{model}: there is no {what} of {name}; versions: {', '.join(str(v.version) for v in versions)}")


@contextmanager
def _published(client: MlflowClient, version: ModelVersion) -> Iterator[tuple[Path | None, str]]:
    """The model directory as it lies in the store of artifacts, or None and the reason."""
    from mlflow.artifacts import download_artifacts

    with TemporaryDirectory(prefix="lhcnet-") as folder:
        try:
            source = client.get_model_version_download_uri(version.name, str(version.version))
            got = download_artifacts(artifact_uri=f"{source}/artifacts", dst_path=folder, tracking_uri=default_uri())
            files = sorted(Path(got).rglob(WEIGHTS))
        except Exception as error:  # every store of artifacts raises its own errors
            yield None, " ".join(str(error).split())[:300]
            return
        yield (files[0].parent, "") if files else (None, f"there is no {WEIGHTS}")


class _Chain:
    """The links of one model, made one after the other."""

    def __init__(self, client: MlflowClient, kubeflow_state: Callable[[str], str] | None) -> None:
        self.client, self.kubeflow_state = client, kubeflow_state
        self.links: list[Link] = []

    def of_version(self, version: ModelVersion, published: Path | None, problem: str) -> list[Link]:
        """The chain of a registered version."""
        name = f"{version.name} version {version.version}"
        self._add("version", name, VERIFIED, "registered")
        recorded = version.tags.get(WEIGHTS_TAG, "")
        if published is None:
            self._add("weights", "", BROKEN, f"cannot be read from the store of artifacts: {problem}")
        else:
            self._weights(published, recorded, f"the tag of {name}")
        self._trained_by(version.run_id or "", recorded, version.tags.get("data_digest", ""), in_folder=False)
        return self.links

    def of_folder(self, folder: Path) -> list[Link]:
        """The chain of a model directory."""
        info = open_model(folder).info
        recorded = info.weights or ""
        versions = self.client.search_model_versions(f"tags.`{WEIGHTS_TAG}` = '{recorded}'")
        names = ", ".join(f"{version.name} version {version.version}" for version in versions)
        self._add("version", names, VERIFIED if names else NOT_CHECKED, "" if names else "it is not registered")
        self._weights(folder, recorded, str(folder / MARKER))
        self._trained_by(self._training_of(recorded), recorded, info.provenance.data, in_folder=True)
        return self.links

    def _add(self, name: str, found: str, state: State, why: str = "") -> None:
        self.links.append(Link(name, found, state, why))

    def _weights(self, folder: Path, recorded: str, where: str) -> None:
        try:
            with (folder / WEIGHTS).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            own = str(cast("dict[str, Any]", read_json(folder / MARKER))["weights"])
        except (OSError, KeyError, TypeError, LhcnetError) as error:
            self._add("weights", "", BROKEN, f"cannot be read: {error}")
            return
        shown = f"SHA-256 {found}"
        for expected, who in ((recorded, where), (own, MARKER)):
            if found != expected:
                self._add("weights", shown, BROKEN, f"expected {expected or 'a digest'}, from {who}")
                return
        self._add("weights", shown, VERIFIED, f"as in {where}")

    def _training_of(self, weights: str) -> str:
        """Id of the oldest run that trained these weights, or ""."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        runs = self.client.search_runs(experiments, f"tags.`{WEIGHTS_TAG}` = '{weights}'", order_by=order)
        first = min(runs, key=lambda run: CACHED in run.data.tags, default=None)
        return str(first.info.run_id) if first else ""

    def _run(self, name: str, run_id: str) -> Run | None:
        """A run that must exist; the link is added only if it is broken."""
        from mlflow.exceptions import MlflowException

        if not run_id:
            self._add(name, "", BROKEN, "expected a run in MLflow; none is recorded")
            return None
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != UNKNOWN:
                raise
            self._add(name, run_id, BROKEN, "expected a run in MLflow; there is none with this id")
            return None
        if run.info.lifecycle_stage == "deleted":
            self._add(name, run_id, BROKEN, f"is deleted; `mlflow runs restore --run-id {run_id}` brings it back")
            return None
        return run

    def _trained_by(self, run_id: str, weights: str, data: str, *, in_folder: bool) -> None:
        """The links from the training run on."""
        run = self._run("training run", run_id)
        if run is not None and WEIGHTS_TAG not in run.data.tags and (by_weights := self._training_of(weights)):
            run = self._run("training run", by_weights)  # a version that an earlier lhcnet registered: run `register`
        parent = None
        if run is not None:
            self._training(run, weights)
            parent = self._run("parent run", run.data.tags.get(PARENT_TAG, ""))
        else:
            self._add("parent run", "", NOT_CHECKED, "the training run is missing")
        if parent is not None and run is not None:
            key, name = run.data.tags.get(KEY, ""), parent.data.tags.get(KEY, "")
            if key.startswith(f"{name}/"):
                self._add("parent run", f"{name} ({parent.info.run_id})", VERIFIED, "exists, of the same execution")
            else:
                self._add("parent run", name, BROKEN, f"expected the execution of {key}")
        tags = (parent.data.tags if parent else {}) | (run.data.tags if run else {})
        self._kubeflow(tags.get(RUN_TAG, ""))
        image = tags.get(IMAGE, "")
        self._add("image", image, NOT_CHECKED, "no registry is asked" if image else "none is recorded")
        self._data(data, run, parent)
        self._dvc(data, in_folder=in_folder)
        self._commit(tags.get(COMMIT, ""), dirty=tags.get("mlflow.source.git.dirty") == "true")

    def _training(self, run: Run, weights: str) -> None:
        shown = f"{run.data.tags.get('mlflow.runName', '')} ({run.info.run_id})"
        recorded = run.data.tags.get(WEIGHTS_TAG)
        if recorded == weights:
            restored = "; entered from the model's files, its training has no record" if CACHED in run.data.tags else ""
            self._add("training run", shown, VERIFIED, f"exists, has these weights{restored}")
        elif recorded is None:
            self._add("training run", shown, BROKEN, f"expected the tag weights = {weights}; it has none")
        else:
            self._add("training run", shown, BROKEN, f"has the weights {recorded}, expected {weights}")

    def _kubeflow(self, run_id: str) -> None:
        if not run_id:
            self._add("Kubeflow run", "", NOT_CHECKED, "none is recorded: trained outside of Kubeflow")
        elif self.kubeflow_state is None:
            self._add("Kubeflow run", run_id, NOT_CHECKED, "KF_PIPELINES_ENDPOINT is not set")
        else:
            try:
                self._add("Kubeflow run", run_id, VERIFIED, f"exists, {self.kubeflow_state(run_id)}")
            except LhcnetError as error:
                self._add("Kubeflow run", run_id, BROKEN, f"expected it in Kubeflow: {error}")

    def _data(self, data: str, run: Run | None, parent: Run | None) -> None:
        if run is not None and (tagged := run.data.tags.get("data_digest", data)) != data:
            self._add("data", data, BROKEN, f"the training run has {tagged}")
            return
        inputs = [one.inputs for one in self._with_data(run, parent) if one.inputs]
        sets = [given.dataset for one in inputs for given in one.dataset_inputs]
        if not sets:
            self._add("data", data, NOT_CHECKED, "neither the training run nor `prepare` has a data set in MLflow")
        elif sets[0].digest == data[:_DIGEST]:
            self._add("data", data, VERIFIED, f"as in MLflow's data set {sets[0].name}")
        else:
            self._add("data", data, BROKEN, f"MLflow's data set {sets[0].name} has {sets[0].digest}")

    def _with_data(self, run: Run | None, parent: Run | None) -> list[Run]:
        """The runs that may have the data set: the training's, then that of `prepare` of its execution."""
        found = [] if run is None else [run]
        if parent is not None:
            filter_ = f"tags.`{KEY}` = '{parent.data.tags.get(KEY, '')}/prepare'"
            found += self.client.search_runs([parent.info.experiment_id], filter_, max_results=1)
        return found

    def _dvc(self, data: str, *, in_folder: bool) -> None:
        """Compare with the data report whose content `dvc.lock` names."""
        lock = Path("dvc.lock")
        if not lock.is_file():
            self._add("data in DVC", "", NOT_CHECKED, "there is no dvc.lock in this folder")
            return
        try:
            stages = read_yaml(lock.read_text(encoding="utf-8"), str(lock))["stages"].values()
            outs = {out["path"]: out.get("md5") for stage in stages for out in stage.get("outs", [])}
            report = next(Path(path) for path in outs if path.endswith("data_report.json"))
            md5 = hashlib.md5(report.read_bytes(), usedforsecurity=False).hexdigest()
            digest = str(cast("dict[str, Any]", read_json(report))["digest"])
        except (OSError, LhcnetError, KeyError, TypeError, AttributeError, StopIteration) as error:
            self._add("data in DVC", "", NOT_CHECKED, f"no data report of dvc.lock can be read here: {error}")
            return
        if md5 != outs[str(report)]:
            self._add("data in DVC", "", NOT_CHECKED, f"{report} is not the one of dvc.lock; run `dvc checkout`")
        elif digest == data:
            self._add("data in DVC", data, VERIFIED, f"dvc.lock has {report} with this digest")
        elif in_folder:
            self._add("data in DVC", digest, BROKEN, f"expected {data}; check out the Git revision of the model")
        else:
            self._add("data in DVC", "", NOT_CHECKED, f"dvc.lock in this folder is of other data ({digest[:12]})")

    def _commit(self, commit: str, *, dirty: bool) -> None:
        if not commit:
            self._add("Git commit", "", NOT_CHECKED, "none is recorded")
        elif not _HEX.fullmatch(commit):
            self._add("Git commit", commit, BROKEN, "expected the hexadecimal name of a commit")
        elif _git("rev-parse", "--is-shallow-repository") != "false":
            self._add("Git commit", commit, NOT_CHECKED, "this folder is in no full Git repository")
        elif _git("cat-file", "-t", commit) != "commit":
            self._add("Git commit", commit, BROKEN, "expected in the repository of this folder; run `git fetch --all`")
        else:
            self._add("Git commit", commit, VERIFIED, f"exists{'; there were changes on top of it' if dirty else ''}")


def _git(*arguments: str) -> str:
    """What git prints; nothing where there is no git or no repository."""
    try:
        asked = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""
