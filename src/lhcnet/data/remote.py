"""The data from where they are: a path, an object store, a web server or a DVC repository; checked before use.

| URI | what it names |
| --- | --- |
| `data/raw/fer2013.zip` | a path on this machine |
| `file:///data/fer2013.zip` | a path where the step runs, such as a volume of a pod |
| `s3://bucket/key`, `minio://bucket/key`, `gs://bucket/key` | one object of a store |
| `https://host/fer2013.zip`, `http://...` | one file of a web server |
| `dvc+https://host/repo.git@REV:path` | what DVC tracks as `path` in revision REV; also dvc+ssh:// and dvc+file:/// |

`#sha256=<64 hex digits>` at the end of any of them is the digest that the file must have. A version is `sha256:<hex>`,
`etag:<text>` (of a store or web server) or `md5:<hex>` (of DVC). Credentials come from the environment and never stand
in a URI.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from lhcnet.data.remote_dvc import DvcSource, dvc_get, dvc_md5, parse_dvc
from lhcnet.data.remote_stores import STORES, TransientError, open_file, redact
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_file
from lhcnet.io.preflight import require_room

log = logging.getLogger("lhcnet")

MAX_SIZE = 2 << 30  # bytes of a source; FER2013 has 0.1 to 0.3 GB, and an archive may unpack to as much
LONGEST = 3600.0  # seconds of one transfer
PATIENCE, SHORT_PATIENCE = 180.0, 20.0  # seconds in which a step, and a waiting user, try a failed transfer again

_DVC = ("dvc+https", "dvc+http", "dvc+ssh", "dvc+file")
EXPECTED = "expected a path, file:///, s3://, minio://, gs://, https:// or dvc+https://host/repo.git@REV:path"
_SHA256 = "#sha256="
SETTING = "data.source"
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Source:
    """A parsed URI."""

    uri: str  # without the digest
    shown: str  # for people and records: without credentials and query
    scheme: str  # "": a path
    sha256: str = ""  # "": not given
    path: Path | None = None  # of a path or file:, else None
    dvc: DvcSource | None = None


def parse_source(uri: str, setting: str = SETTING) -> Source:
    """Parse the URI of a source.

    Args:
        uri: the URI.
        setting: the key that has it, for messages.

    Raises:
        LhcnetError: its scheme is unknown, a part is missing, or it has a password in it.
    """
    text, mark, sha256 = uri.rpartition(_SHA256)
    if not mark:
        text, sha256 = uri, ""
    elif not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise LhcnetError(f"{setting}: {redact(text)}: {_SHA256}... has to be followed by 64 hexadecimal digits")
    found = re.match(r"([A-Za-z][A-Za-z0-9.+-]*)://|(file):", text)
    if not found:
        return Source(text, text, "", sha256.lower(), Path(text))
    scheme, shown = (found[1] or found[2]).lower(), redact(text)
    if scheme == "file":
        return Source(text, shown, scheme, sha256.lower(), _file_path(text, setting))
    if scheme not in (*STORES, *_DVC):
        raise LhcnetError(f"{setting}: {shown}: unknown kind {scheme}://, {EXPECTED}")
    try:
        parts = urlsplit(text)
        has_password, host = bool(parts.password), parts.hostname
        _ = parts.port
    except ValueError as error:
        raise LhcnetError(f"{setting}: {shown} is no URI ({error}), {EXPECTED}") from None
    if has_password or (parts.username and scheme != "dvc+ssh"):
        raise LhcnetError(
            f"{setting}: {shown}: a password in the URI would stand in every record; expected it in the environment "
            "(LHCNET_SOURCE_TOKEN)"
        )
    if scheme in _DVC:
        return Source(text, shown, scheme, sha256.lower(), dvc=parse_dvc(text, shown))
    if not host or not parts.path.strip("/") or parts.path.endswith("/"):
        raise LhcnetError(f"{setting}: {shown}: expected one file, for example {scheme}://HOST-OR-BUCKET/PATH")
    return Source(text, shown, scheme, sha256.lower())


def _file_path(text: str, setting: str) -> Path:
    rest = text[len("file:") :]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host not in ("", "localhost") or not rest:
            raise LhcnetError(f"{setting}: {text}: expected file:///PATH, three slashes and a path of this machine")
        rest = slash + rest
    return Path(unquote(rest))


def fetch(uri: str, version: str, folder: Path, setting: str = SETTING) -> Path:
    """Get the data of a source, and check that they are what the URI and the version say.

    A path is used in place. Anything else is downloaded into `folder`, where it is complete and checked, or absent.
    Failures that may pass (time-outs, statuses 5xx, broken connections) are tried again for `PATIENCE` seconds.

    Args:
        uri: the source.
        version: `sha256:`, `etag:` or `md5:` with what `source_version` found; "" checks nothing but the URI's digest.
        folder: an existing folder.
        setting: the key that has the URI, for messages.

    Returns:
        Path of the file or folder.

    Raises:
        LhcnetError: the data cannot be had, are too large, or are other ones.
    """
    source = parse_source(uri, setting)
    if source.path is not None:
        expected = {f"sha256:{source.sha256}"} if source.sha256 else set()
        for one in expected | ({version} if version else set()):
            _require_version(source, one, _local_version(source, source.path, setting))
        return source.path
    if source.dvc is not None:
        return _fetch_dvc(source, source.dvc, version, folder)
    return _retried(source, PATIENCE, lambda: _download(source, version, folder))


def source_version(uri: str) -> str:
    """Version of a source: its digest, or what identifies its content where it is. Downloads nothing.

    Returns:
        `sha256:<hex>` of a path, or as the URI has it; `etag:<text>` of a store or web server; `md5:<hex>` of DVC.

    Raises:
        LhcnetError: the source cannot be reached, or has no version.
    """
    source = parse_source(uri)
    if source.sha256:
        return f"sha256:{source.sha256}"
    if source.path is not None:
        return _local_version(source, source.path)
    if (dvc := source.dvc) is not None:
        with scratch(uri) as folder:
            return _retried(source, SHORT_PATIENCE, lambda: f"md5:{dvc_md5(dvc, source.shown, folder)[0]}")

    def etag() -> str:
        with open_file(source.uri, source.shown) as opened:
            return _etag_version(source, opened.etag)

    return _retried(source, SHORT_PATIENCE, etag)


def reachable_from_cluster(uri: str) -> str:
    """Why the pods of a cluster cannot read a source, in one sentence; "" if nothing speaks against it."""
    try:
        source = parse_source(uri)
    except LhcnetError as error:
        return str(error)
    if source.path is not None and not (source.scheme == "file" and source.path.is_absolute()):
        return (
            f"data.source: {source.shown} is a path on this machine, which a cluster cannot read; expected s3://, "
            "minio://, gs://, https://, dvc+https:// or, on a volume of the pods, file:///PATH"
        )
    if source.scheme == "dvc+file":
        return f"data.source: {source.shown} is on this machine, which a cluster cannot read; expected dvc+https://"
    host = source.dvc.host if source.dvc else (urlsplit(source.uri).hostname or "")
    if (
        source.path is None
        and source.scheme.removeprefix("dvc+") in ("http", "https", "ssh")
        and _is_this_machine(host)
    ):
        return f"data.source: {source.shown} is on this machine (in a pod {host} is the pod); expected a host's name"
    return ""


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback or ip_address(host).is_unspecified
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def source_record(uri: str, version: str) -> dict[str, str]:
    """A source in the record: URI without query, version; of DVC also repository, revision and path."""
    source = parse_source(uri)
    record = {"source": source.shown} | ({"source_version": version} if version else {})
    if source.dvc:
        record |= {"dvc_repo": redact(source.dvc.repo), "dvc_rev": source.dvc.rev, "dvc_path": source.dvc.path}
    return record


@contextmanager
def scratch(uri: str) -> Iterator[Path]:
    """A temporary folder (below TMPDIR) for `fetch`, removed at the end. A path needs none and gets its own folder."""
    if (path := parse_source(uri).path) is not None:
        yield path.parent
        return
    try:
        temporary = tempfile.TemporaryDirectory(prefix="lhcnet-source-")
    except OSError as error:
        raise LhcnetError(f"TMPDIR: no temporary folder for the data can be made: {error.strerror or error}") from None
    with temporary as name:
        yield Path(name)


def _download(source: Source, version: str, folder: Path) -> Path:
    name = (unquote(urlsplit(source.uri).path) if source.scheme.startswith("http") else source.uri).rpartition("/")[2]
    target = folder / (re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[-100:] or "source")
    deadline = time.monotonic() + LONGEST
    with open_file(source.uri, source.shown) as opened:
        if version.startswith("etag:"):
            _require_version(source, version, _etag_version(source, opened.etag))
        _require_size(source, opened.size or 0)
        require_room(target, opened.size or 0)
        digest, size = hashlib.sha256(), 0
        with atomic_file(target) as file:
            with file.open("wb") as output:
                for chunk in opened.chunks:
                    size += len(chunk)
                    _require_size(source, size)
                    if time.monotonic() > deadline:
                        raise LhcnetError(f"{source.shown}: not complete after {LONGEST:,.0f} s ({size:,} bytes came)")
                    digest.update(chunk)
                    output.write(chunk)
            if opened.size is not None and size != opened.size:
                raise TransientError(f"{size:,} of {opened.size:,} bytes came")
            _check_sha256(source, version, digest.hexdigest())
            if version and not version.startswith(("etag:", "sha256:")):
                _require_version(source, version, f"sha256:{digest.hexdigest()}")
    log.info("%s: %d bytes, sha256 %s", source.shown, size, digest.hexdigest())
    return target


def _fetch_dvc(source: Source, dvc: DvcSource, version: str, folder: Path) -> Path:
    def get() -> Path:
        md5, size = dvc_md5(dvc, source.shown, folder)
        if version.startswith("md5:"):
            _require_version(source, version, f"md5:{md5}")
        _require_size(source, size)
        require_room(folder / "source", size)
        return dvc_get(dvc, source.shown, md5, folder, LONGEST)

    path = _retried(source, PATIENCE, get)
    if source.sha256 or version.startswith("sha256:"):
        _check_sha256(source, version, _local_version(source, path).removeprefix("sha256:"))
    elif version and not version.startswith("md5:"):
        _require_version(source, version, "md5:...")
    return path


def _check_sha256(source: Source, version: str, found: str) -> None:
    for expected in {source.sha256, version.removeprefix("sha256:") if version.startswith("sha256:") else ""} - {""}:
        _require_version(source, f"sha256:{expected}", f"sha256:{found}")


def _require_version(source: Source, expected: str, found: str) -> None:
    if found != expected:
        raise LhcnetError(
            f"{source.shown}: these are other data than expected (found {found}, expected {expected}); name the right "
            "file or digest, or submit again if the data were replaced on purpose"
        )


def _require_size(source: Source, size: int) -> None:
    if size > MAX_SIZE:
        raise LhcnetError(f"{source.shown}: {size:,} bytes or more, expected at most {MAX_SIZE:,}")


def _etag_version(source: Source, etag: str) -> str:
    if not etag:
        raise LhcnetError(
            f"{source.shown}: the server gives no ETag to check; expected {_SHA256}<digest of the file> at the end"
        )
    return f"etag:{etag}"


def _local_version(source: Source, path: Path, setting: str = SETTING) -> str:
    """`sha256:` of a file, or of a folder: of its files' names and digests in sorted order."""
    try:
        if not path.is_dir():
            return f"sha256:{_digest(path)}"
        files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
        listing = "".join(f"{name}\0{_digest(file)}\n" for name, file in files)
        return f"sha256:{hashlib.sha256(listing.encode(errors='surrogateescape')).hexdigest()}"
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or error
        hint = f"; of a file on a cluster's volume give the digest: {_SHA256}..." if source.scheme else ""
        raise LhcnetError(f"{setting}: {source.shown} cannot be read: {reason}{hint}") from None


def _digest(file: Path) -> str:
    if not file.is_file():
        raise OSError("no such file" if not os.path.lexists(file) else "no regular file")
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _retried(source: Source, patience: float, work: Callable[[], _Result]) -> _Result:
    """Try again what fails in passing for `patience` seconds, after pauses of about 1, 2, 4 ... 30 s."""
    from google.api_core.exceptions import RetryError
    from google.api_core.retry import Retry, if_exception_type

    def say(error: Exception) -> None:
        log.warning("%s: %s; it is tried again for %.0f s in all", source.shown, error, patience)

    started = time.monotonic()
    again = Retry(if_exception_type(TransientError), 1.0, 30.0, 2.0, timeout=patience, on_error=say)
    try:
        return again(work)()
    except RetryError as error:
        spent = time.monotonic() - started
        raise LhcnetError(f"{source.shown}: given up after {spent:.0f} s: {error.cause}") from None
