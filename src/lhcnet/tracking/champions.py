"""Champions of a registered model: the alias, the history in the versions' tags, and the way back.

Tags of a version: `champion_since` (when it became champion), `rolled_back` (when it was withdrawn), `gate` (why it
became champion or not).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lhcnet.errors import LhcnetError
from lhcnet.tracking.faults import UNKNOWN
from lhcnet.tracking.store import mlflow_errors, open_client
from lhcnet.tracking.target import default_uri, sqlite_file, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
GATE, SINCE, ROLLED_BACK = "gate", "champion_since", "rolled_back"  # tags of a version
DECIDED = "gate_champion"  # tag of a version: yes or no, the decision when it was registered


@dataclass(frozen=True)
class Version:
    """A version of a registered model, as `lhcnet registry show` lists it."""

    number: int
    aliases: tuple[str, ...]
    model: str
    since: str
    rolled_back: str
    gate: str


def open_registry() -> MlflowClient:
    """The client of the store that the environment names.

    Raises:
        LhcnetError: it is a file that does not exist.
    """
    file = sqlite_file(default_uri())
    if file is not None and not file.exists():
        raise LhcnetError(f"{file}: expected MLflow's database; set MLFLOW_TRACKING_URI to the one that has the model")
    return open_client()[0]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def set_alias(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Give a version an alias."""
    _once_more(lambda: client.set_registered_model_alias(name, alias, version))


def champion(client: MlflowClient, name: str) -> str:
    """The version with the alias `champion`, or ""."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(name, CHAMPION).version)
    except MlflowException as error:
        if error.error_code not in (UNKNOWN, "INVALID_PARAMETER_VALUE"):
            raise
        return ""


def make_champion(client: MlflowClient, name: str, version: str) -> None:
    """Give a version the alias `champion`, and enter it in the history."""
    set_alias(client, name, CHAMPION, version)
    _once_more(lambda: client.set_model_version_tag(name, version, SINCE, now()))


def _once_more(write: Callable[[], object]) -> None:
    """Write to MLflow. Its database refuses one of two writers that insert the same at once: then once more."""
    try:
        write()
    except Exception:  # MLflow passes on what the database's driver raises
        time.sleep(0.5)
        write()


def all_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a registered model, the oldest first.

    Raises:
        LhcnetError: there is no such model.
    """
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        found += page
        if not (token := page.token):
            break
    if not found:
        raise LhcnetError(f"{without_secrets(default_uri())}: has no version of a registered model {name!r}")
    return sorted(found, key=lambda version: int(version.version))


def show(name: str) -> list[Version]:
    """The versions of a registered model, the oldest first.

    Raises:
        LhcnetError: there is no such model, or MLflow does not answer.
    """
    with mlflow_errors(default_uri()):
        client = open_registry()
        versions = all_versions(client, name)
        aliases = client.get_registered_model(name).aliases
    return [
        Version(
            number=int(version.version),
            aliases=tuple(sorted(alias for alias, of in aliases.items() if int(of) == int(version.version))),
            model=version.tags.get("trained_as", ""),
            since=version.tags.get(SINCE, ""),
            rolled_back=version.tags.get(ROLLED_BACK, ""),
            gate=version.tags.get(GATE, ""),
        )
        for version in versions
    ]


def roll_back(name: str, to: int | None = None) -> tuple[str, str]:
    """Give the alias `champion` back to a former champion; the versions that came after it are marked as rolled back.

    Args:
        name: of the registered model.
        to: a version that was champion; None: the one before the present champion.

    Returns:
        The version that was champion, or "", and the one that is it now.

    Raises:
        LhcnetError: there is no such former champion, or MLflow does not answer.
    """
    with mlflow_errors(default_uri()):
        client = open_registry()
        present = champion(client, name)
        were = [version for version in all_versions(client, name) if SINCE in version.tags]
        were.sort(key=lambda version: (version.tags[SINCE], int(version.version)))
        order = [str(version.version) for version in were]
        standing = [str(version.version) for version in were if ROLLED_BACK not in version.tags]
        if to is None:
            before = standing[: standing.index(present)] if present in standing else standing
            if not before:
                raise LhcnetError(f"{name}: version {present or 'none'} is champion, and none was before it")
            target = before[-1]
        elif str(to) in order:
            target = str(to)
        else:
            raise LhcnetError(f"{name}: version {to} was never champion; expected one of {', '.join(order) or 'none'}")
        at = now()
        set_alias(client, name, CHAMPION, target)
        if target not in standing:  # it is champion again after a roll-back
            client.delete_model_version_tag(name, target, ROLLED_BACK)
        for number in order[order.index(target) + 1 :]:
            client.set_model_version_tag(name, number, ROLLED_BACK, at)
    return present, target
