"""Failures of MLflow, its database or its server: one sentence with the remedy, and whether they pass by themselves."""

from __future__ import annotations

import re
from pathlib import Path

from lhcnet.errors import LhcnetError
from lhcnet.tracking.target import LastingError, mask, missing_package, without_secrets

UNKNOWN = "RESOURCE_DOES_NOT_EXIST"
_LONGEST = 1500  # characters of a message of MLflow; its remedies come last
_LASTING_CODES = (
    UNKNOWN,
    "INVALID_PARAMETER_VALUE",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "FEATURE_DISABLED",
)
_LASTING_CLASSES = ("UnsupportedModelRegistryStoreURIException", "InvalidUrlException", "ArgumentError")
_SCHEMA = re.compile(r"(?:found version|identified by) '?(\w+)")
# what a message has in it, and what helps; nothing where the message says it
_REMEDIES = {
    r"not authenticated|error code 401": "expected MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN",
    r"Invalid Host header": "start the server with this name and port in `--allowed-hosts`",
    r"password authentication failed|access denied for user": "expected user and password of the database in the "
    "address",
    r'(database|role) "[^"]*" does not exist|unknown database': "create it, or name another in MLFLOW_TRACKING_URI",
    r"permission denied|read-?only (database|file system)|unable to open database file|AccessDenied": "expected the "
    "right to write there",
    r"unable to locate credentials": "expected the credentials of the artifact store",
    r"WRONG_VERSION_NUMBER": "the server has no TLS: expected http:// in MLFLOW_TRACKING_URI",
    r"CERTIFICATE_VERIFY_FAILED": "expected the server's certificate in MLFLOW_TRACKING_SERVER_CERT_PATH",
    r"home directory": "expected a writable folder in HOME",
}


class UnknownRunError(LastingError):
    """MLflow does not know a run or an experiment that it knew, or was told to use."""


def as_sentence(error: Exception, uri: str) -> LhcnetError:
    """An exception of MLflow, its database's driver or its server as one sentence, without the secrets of `uri`.

    Returns:
        LastingError: it will fail again, whatever the time; UnknownRunError; or LhcnetError.
    """
    line = " ".join(mask(str(error) or type(error).__name__, uri).split())
    if isinstance(error, ImportError):
        line = missing_package(error)
    schema = _schema_problem(line)
    remedy = next((text for found, text in _REMEDIES.items() if re.search(found, line, re.IGNORECASE)), "")
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    line = schema or (f"{line.rstrip('.')}: {remedy}" if remedy else line)
    code = getattr(error, "error_code", "")
    kind: type[LhcnetError] = LhcnetError
    if code == UNKNOWN:
        kind = UnknownRunError
    elif (
        schema
        or remedy
        or isinstance(error, ImportError)
        or code in _LASTING_CODES
        or type(error).__name__ in _LASTING_CLASSES
    ):
        kind = LastingError
    return kind(f"MLflow at {without_secrets(uri)}: {line}")


def _schema_problem(line: str) -> str:
    """What to do about a database of another MLflow; "" if the message is about something else."""
    if "out-of-date database schema" not in line and "Can't locate revision" not in line:
        return ""
    import mlflow

    match = _SCHEMA.search(line)
    schema = match[1] if match else ""
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if schema and any(migrations.glob(f"{schema}_*")):
        return (
            f"the database has the schema {schema} of an older MLflow than {mlflow.__version__}; back it up, then "
            "`mlflow db upgrade` with its address"
        )
    return (
        f"the database has the schema {schema} of a newer MLflow than {mlflow.__version__}; install that one "
        "(`pip install --upgrade mlflow`), or name another store in MLFLOW_TRACKING_URI"
    )
