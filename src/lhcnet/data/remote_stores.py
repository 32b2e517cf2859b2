"""One file of a web server or an object store, opened with the library of its kind. Their errors become sentences.

Environment variables: for S3 those of boto3 (AWS_ACCESS_KEY_ID ..., AWS_CA_BUNDLE), with the endpoint in
AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, MLFLOW_S3_ENDPOINT_URL or, for minio://, MINIO_ENDPOINT; for Google those of its
library (GOOGLE_APPLICATION_CREDENTIALS); for web servers LHCNET_SOURCE_TOKEN (sent to https only) and those of requests
(REQUESTS_CA_BUNDLE, NETRC, proxies).
"""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from lhcnet.errors import LhcnetError

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
TOKEN = "LHCNET_SOURCE_TOKEN"  # environment variable
S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")
_CHUNK = 1 << 20  # bytes
_MAX_REDIRECTS = 5
_PASSING = {408, 425, 429}  # statuses that pass, besides 5xx
_BUNDLES = "AWS_CA_BUNDLE for S3, REQUESTS_CA_BUNDLE for others"
_NETWORK = (ConnectionError, ssl.SSLError)
_PASSING_CODES = {"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "InternalError"}


class TransientError(Exception):
    """A failure that may pass: the caller tries again."""


@dataclass(frozen=True)
class Opened:
    """An open file: size in bytes if the server gives it, ETag or "", and the content, read as it is consumed."""

    size: int | None
    etag: str
    chunks: Iterable[bytes]
    close: Callable[[], object] = lambda: None


def redact(text: str) -> str:
    """A text without the user names, passwords and queries of the URIs in it."""
    return re.sub(r"(://[^\s?#]*)\?[^\s#'\"]*", r"\1?...", re.sub(r"://[^/\s?#]*@", "://", text))


@contextmanager
def open_file(uri: str, shown: str) -> Iterator[Opened]:
    """Open one file of a store or web server; it is closed at the end.

    Args:
        uri: its URI, with one of the schemes of `STORES`.
        shown: the URI to show in errors.

    Raises:
        TransientError: it failed, and may not fail again; also while the content is read.
        LhcnetError: it failed for good, likewise.
    """
    scheme = uri.partition("://")[0].lower()
    host = urlsplit(uri).hostname or ""
    if scheme == "gs":
        host = "Google Cloud Storage"
    elif scheme in ("s3", "minio"):
        host = urlsplit(_s3_endpoint(uri, shown)).hostname or "Amazon S3"

    def explained(chunks: Iterable[bytes]) -> Iterator[bytes]:
        with _explained(shown, host):
            yield from chunks

    with _explained(shown, host):
        opened = STORES[scheme](uri, shown)
    try:
        yield replace(opened, chunks=explained(opened.chunks))
    finally:
        opened.close()


def _open_http(uri: str, shown: str) -> Opened:
    import requests

    def with_token(request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {os.environ[TOKEN]}"
        return request

    session = requests.Session()
    session.max_redirects = _MAX_REDIRECTS
    answer = session.get(
        uri,
        stream=True,
        headers={"Accept-Encoding": "identity"},
        timeout=(CONNECT_SECONDS, READ_SECONDS),
        auth=with_token if os.environ.get(TOKEN) and uri.lower().startswith("https://") else None,
    )
    _check_status(shown, answer.status_code, f"a token in {TOKEN} (https only), or a NETRC file")
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise LhcnetError(f"{shown}: the server sent a web page; expected a file (is it a login page?)")
    length = answer.headers.get("Content-Length", "")
    return Opened(
        int(length) if length.isdigit() else None,
        _plain_etag(answer.headers.get("ETag", "")),
        answer.raw.stream(_CHUNK, decode_content=False),
        session.close,
    )


def _open_s3(uri: str, shown: str) -> Opened:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

    endpoint = _s3_endpoint(uri, shown)
    bucket, key = _bucket_and_key(uri)
    settings = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 1},  # the caller tries again
        s3={"addressing_style": "path"} if endpoint else {},
    )
    try:
        # a new session: the default one keeps the first credentials that it found
        client = boto3.session.Session().client("s3", endpoint_url=endpoint or None, config=settings)
        answer = client.get_object(Bucket=bucket, Key=key)
    except (NoCredentialsError, PartialCredentialsError):
        raise LhcnetError(
            f"{shown}: no credentials; expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment (in a "
            "cluster: keys of the secret)"
        ) from None
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == "NoSuchBucket":
            raise LhcnetError(f"{shown}: there is no bucket {bucket} at {endpoint or 'Amazon S3'}") from None
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        credentials = "keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY that may read it"
        _check_status(shown, 503 if code in _PASSING_CODES else status, credentials, code)
        raise
    body = answer["Body"]
    return Opened(int(answer["ContentLength"]), _plain_etag(answer["ETag"]), body.iter_chunks(_CHUNK), body.close)


def _open_gs(uri: str, shown: str) -> Opened:
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage

    bucket, key = _bucket_and_key(uri)
    credentials = "credentials that may read it in GOOGLE_APPLICATION_CREDENTIALS, or a service account"
    timeout = (CONNECT_SECONDS, READ_SECONDS)
    try:
        blob = storage.Client(project="lhcnet").bucket(bucket).blob(key)  # reading needs no project of one's own
        blob.reload(timeout=timeout, retry=None)
    except DefaultCredentialsError:
        raise LhcnetError(f"{shown}: no credentials; expected {credentials}") from None
    except GoogleAPICallError as error:
        _check_status(shown, int(error.code or 0), credentials)
        raise
    return Opened(blob.size, _plain_etag(blob.etag or ""), _gs_chunks(blob, timeout))


def _gs_chunks(blob: Any, timeout: tuple[float, float]) -> Iterator[bytes]:
    """Content of one generation of an object, checked against the store's CRC32C."""
    import google_crc32c

    found = 0
    same = {"if_generation_match": blob.generation}
    with blob.open("rb", chunk_size=16 * _CHUNK, timeout=timeout, retry=None, **same) as file:
        while chunk := file.read(_CHUNK):
            found = google_crc32c.extend(found, chunk)
            yield chunk
    if blob.crc32c and base64.b64encode(found.to_bytes(4, "big")).decode() != blob.crc32c:
        raise TransientError("the content was damaged on its way (CRC32C)")


STORES: dict[str, Callable[[str, str], Opened]] = {
    "s3": _open_s3,
    "minio": _open_s3,
    "gs": _open_gs,
    "http": _open_http,
    "https": _open_http,
}
"""Scheme -> function of the URI and the URI to show, which opens the file."""


def _s3_endpoint(uri: str, shown: str) -> str:
    """URL of the S3 service, or "" for Amazon's."""
    minio = uri.lower().startswith("minio:")
    names = (*S3_ENDPOINTS, "MINIO_ENDPOINT") if minio else S3_ENDPOINTS
    endpoint = next((value for name in names if (value := os.environ.get(name, ""))), "")
    if minio and not endpoint:
        raise LhcnetError(f"{shown}: endpoint not set; expected AWS_ENDPOINT_URL=http://HOST:PORT in the environment")
    return endpoint if not endpoint or "://" in endpoint else f"http://{endpoint}"


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def _plain_etag(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def _check_status(shown: str, status: int, credentials: str, code: str = "") -> None:
    """Raise what an HTTP status means, unless it is 2xx."""
    said = f"status {status}" + (f", {code}" if code else "")
    if 200 <= status < 300:
        return
    if status >= 500 or status in _PASSING:
        raise TransientError(f"the server is busy or has failed ({said})")
    if status in (401, 403):
        raise LhcnetError(f"{shown}: access denied ({said}); expected {credentials}")
    if status in (404, 410):
        raise LhcnetError(f"{shown}: there is no such file or bucket ({said}); name the right one")
    raise LhcnetError(f"{shown}: the server refused ({said}); expected a file to download")


@contextmanager
def _explained(shown: str, host: str) -> Iterator[None]:
    """Turn the libraries' errors into sentences by their causes, whose own text may hold a signed URI."""
    try:
        yield
    except (TransientError, LhcnetError):
        raise
    except Exception as error:
        causes = list(_causes(error))
        names = " ".join(type(cause).__name__ for cause in causes)
        if untrusted := [cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)]:
            raise LhcnetError(
                f"{shown}: the certificate of {host} is not trusted ({untrusted[0].verify_message}); expected its "
                f"authority in a CA bundle: {_BUNDLES}"
            ) from None
        no_bundle = isinstance(error, OSError) and "CA certificate bundle" in str(error)  # as requests says it
        if no_bundle or any(isinstance(cause, FileNotFoundError) for cause in causes):
            raise LhcnetError(
                f"{shown}: the CA bundle cannot be read; expected a file of certificates: {_BUNDLES}"
            ) from None
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            raise TransientError(f"host {host} is unknown; expected one that the name service knows") from None
        if "Timeout" in names:
            raise TransientError(f"{host} did not answer in time") from None
        if any(isinstance(cause, _NETWORK) for cause in causes) or re.search(
            "Connection|Incomplete|Protocol|Transport", names
        ):
            reason = next(
                (c.strerror for c in reversed(causes) if isinstance(c, OSError) and c.strerror), "it broke off"
            )
            raise TransientError(f"connection to {host}: {reason}") from None
        line = redact(" ".join(str(error).split()))[:200]
        raise LhcnetError(f"{shown}: {type(error).__name__}: {line}") from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
