"""Where the record goes: MLflow's URI and experiment, from the environment variables that MLflow itself defines."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lhcnet.errors import LhcnetError

DEFAULT_EXPERIMENT = "lhcnet"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
HIDDEN = "***"
_DATABASES = ("postgresql", "mysql", "mssql", "sqlite")
_SERVERS = ("http", "https", "databricks", "databricks-uc", "uc")
_PLAIN_PATH = re.compile(r"[\w/.+ -]*", re.ASCII)  # a path that is the same in a URI
_SQLITE_HEADER = b"SQLite format 3\0"
_SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


class LastingError(LhcnetError):
    """A failure that does not go away by itself: nobody waits for MLflow because of it."""


@dataclass(frozen=True)
class TrackingTarget:
    """An MLflow store and an experiment in it.

    Attributes:
        uri: tracking URI; it may hold a user, a password and options.
        experiment: name of the experiment.
        experiment_id: its id if MLFLOW_EXPERIMENT_ID names one (then `experiment` is not used), else "".
    """

    uri: str
    experiment: str
    experiment_id: str

    @classmethod
    def from_environment(cls) -> TrackingTarget:
        """The target of MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and MLFLOW_EXPERIMENT_ID."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
        return cls(default_uri(), name, os.environ.get("MLFLOW_EXPERIMENT_ID", ""))


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, or `mlflow.db` in the working directory; a relative path of SQLite is made absolute."""
    uri = os.environ.get(URI_VARIABLE)
    if not uri:
        return _sqlite_uri(Path.cwd() / "mlflow.db")
    file = sqlite_file(uri)
    return uri if file is None or "?" in uri else _sqlite_uri(Path.cwd() / file)


def _sqlite_uri(file: Path) -> str:
    if _PLAIN_PATH.fullmatch(str(file)):
        return f"sqlite:///{file}"
    from sqlalchemy import URL

    # with the driver's name, because for `sqlite:///` MLflow makes the folder whose name is the quoted path
    return URL.create("sqlite+pysqlite", database=str(file)).render_as_string(hide_password=False)


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for other stores and for one in memory."""
    scheme, found, path = uri.partition(":///")
    if not found or scheme.partition("+")[0] != "sqlite":
        return None
    if not _PLAIN_PATH.fullmatch(path):
        from sqlalchemy import make_url

        path = make_url(uri).database or ""
    return Path(path) if path and path != ":memory:" and not path.startswith("file:") else None


def without_secrets(uri: str) -> str:
    """The URI without user, password, options and fragment.

    Where it is not certain which part of it is the password, only the scheme is left.
    """
    scheme, found, rest = uri.partition("://")
    if not found:  # a path, or an address without a scheme
        return HIDDEN if "@" in rest or ("@" in uri and not uri.startswith((".", "/", "file:"))) else _cut(uri, "?")
    kind = scheme.partition("+")[0]
    if kind in ("sqlite", "file"):
        return _cut(uri, "?")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if kind in _DATABASES:
        from sqlalchemy import URL, make_url

        try:
            parsed = make_url(uri)
        except Exception:  # sqlalchemy raises its own errors and those of `int` and `dict`
            return f"{scheme}://{HIDDEN}"
        if "@" in str(dict(parsed.query)):
            return f"{scheme}://{HIDDEN}"
        if rest.count("@") <= 1:
            plain = URL.create(scheme, host=parsed.host, port=parsed.port, database=parsed.database)
            return _cut(plain.render_as_string(), "?#;")
    elif "@" in rest[len(authority) :]:
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://{_cut(rest.rpartition('@')[2], '?#;')}"


def _cut(text: str, at: str) -> str:
    return re.split(f"[{at}]", text, maxsplit=1)[0]


def mask(text: str, uri: str) -> str:
    """A text of MLflow or of a database's driver, without the secrets of `uri` and of the environment."""
    text = text.replace(uri, without_secrets(uri))
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        pattern = re.escape(secret) if len(secret) > 3 else rf"(?<!\w){re.escape(secret)}(?!\w)"
        text = re.sub(pattern, HIDDEN, text)
    return text


def _secrets(uri: str) -> set[str]:
    """The hidden parts of a URI, whole and in pieces, as they stand and decoded; the name of a user is none."""
    scheme, found, rest = uri.partition("://")
    rest = rest if found else uri
    whole = {os.environ.get(name, "") for name in _SECRET_VARIABLES}
    is_file = scheme.partition("+")[0] in ("sqlite", "file")
    if "@" in rest and not is_file:
        userinfo, _, rest = rest.rpartition("@")
        whole.add(userinfo.partition(":")[2] or userinfo)
    hidden = re.split(r"[?]" if is_file else r"[?#;]", rest, maxsplit=1)[1:]
    whole |= {part.partition("=")[2] or part for text in hidden for part in re.split(r"[?&#;]", text)}
    shown = set(re.split(r"\W+", without_secrets(uri)))  # a password may be the name of the database
    pieces = {piece for secret in whole for piece in re.split(r"[/:@?#;&=%\s]+", secret) if len(piece) > 2}
    return {form for secret in whole | (pieces - shown) for form in (secret, unquote(secret))} - {""}


def lasting_problem(uri: str) -> str:
    """Why MLflow can never take a record at this URI, as far as this is known without a connection; or ""."""
    shown = without_secrets(uri)
    scheme = uri if uri in _SERVERS else urlsplit(uri.partition("//")[0]).scheme.lower()
    kind = scheme.partition("+")[0]
    if kind == "sqlite":
        return _problem_of_file(sqlite_file(uri))
    if kind in _DATABASES:
        return _problem_of_driver(uri, shown)
    if kind in ("", "file"):
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
            return ""
        return (
            f"{shown}: MLflow writes to a folder only with MLFLOW_ALLOW_FILE_STORE=true; expected that, or "
            f"http://HOST:PORT or sqlite:///mlflow.db in {URI_VARIABLE}"
        )
    if kind in _SERVERS or _is_plugin(kind):
        return ""
    return (
        f"{shown}: MLflow does not support this address; expected http://HOST:PORT, https://HOST, sqlite:///FILE or a "
        f"database (postgresql, mysql, mssql) in {URI_VARIABLE}"
    )


def _problem_of_file(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        if file.is_symlink() and not file.exists():
            return f"{file}: is a link to {file.readlink()}, which does not exist; expected its disk to be mounted"
        if not file.exists():
            there = next(folder for folder in file.absolute().parents if folder.exists())
            return _problem_of_access(there)
        if not file.is_file():
            return f"{file}: expected a file with MLflow's SQLite database"
        if problem := _problem_of_access(file) or _problem_of_access(file.absolute().parent):
            return problem
        with file.open("rb") as opened:
            if opened.read(len(_SQLITE_HEADER)) not in (b"", _SQLITE_HEADER):
                return f"{file}: is no SQLite database; expected that of MLflow, or a name that is free"
    except OSError as error:
        return f"{file}: {error.strerror}; expected a file that can be read and written"
    return ""


def _problem_of_access(path: Path) -> str:
    effective = os.access in os.supports_effective_ids
    if os.access(path, os.R_OK | os.W_OK, effective_ids=effective):
        return ""
    return f"{path}: permission denied; SQLite must read and write the database and its folder"


def _problem_of_driver(uri: str, shown: str) -> str:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except ImportError as error:
        return f"{shown}: {missing_package(error)}"
    except (ArgumentError, ValueError) as error:
        return f"{shown}: not the URI of a database: {mask(str(error), uri)}"
    return ""


def missing_package(error: ImportError) -> str:
    """One clause about a module that is not installed, with the command that installs it."""
    module = error.name or str(error)
    package = {"MySQLdb": "mysqlclient", "psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary"}
    return f"the Python package {module!r} is missing; install it (`pip install {package.get(module, module)}`)"


def _is_plugin(scheme: str) -> bool:
    from importlib.metadata import entry_points

    return any(plugin.name == scheme for plugin in entry_points(group="mlflow.tracking_store"))
