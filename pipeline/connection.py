"""Connection to the REST API of Kubeflow Pipelines: address, credentials, bounded times, errors in one sentence.

The calls are those of `kfp_server_api`, the client that is generated from the published description of the API. Its
replies are not converted to its models: these drop what they do not know (the version of the back end), and take a
login page for an empty success.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import kfp_server_api
from kfp.client import KF_PIPELINES_SA_TOKEN_PATH
from urllib3 import Retry
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, SSLError, TimeoutError

from lhcnet.errors import LhcnetError
from lhcnet.tracking.target import without_secrets

TOKEN, COOKIES, TIMEOUT = "KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIES", "KF_PIPELINES_TIMEOUT"  # environment variables
CREDENTIALS = f"a token in {TOKEN} or --token-file, or cookies in {COOKIES}"
MAX_REPLY = 64 << 20  # bytes
_NO_RETRIES = Retry(0, redirect=0, raise_on_redirect=False)
_LONGEST = 500  # characters of a server's message


class ApiError(LhcnetError):
    """A call that failed.

    Attributes:
        status: HTTP status of the reply, 0 if there was none.
        transient: whether the same call may succeed a little later.
    """

    def __init__(self, message: str, status: int = 0, *, transient: bool = False) -> None:
        super().__init__(message)
        self.status, self.transient = status, transient


@dataclass(frozen=True)
class Reply:
    """Reply of the API: HTTP status, content type and bytes."""

    status: int
    content_type: str
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", errors="replace")

    @property
    def is_html(self) -> bool:
        return "html" in self.content_type or self.body[:100].lstrip().lower().startswith((b"<!doctype", b"<html"))

    def getheader(self, name: str, default: str | None = None) -> str | None:
        """Header of the reply, as the generated client asks for it."""
        return self.content_type if name.lower() == "content-type" else default


@dataclass(frozen=True)
class Connection:
    """Address and credentials of a Kubeflow Pipelines endpoint.

    Args:
        host: address of the API, without `/apis/...`; behind Kubeflow's gateway it ends in `/pipeline`.
        namespace: namespace of the user; "" for an installation with one user.
        token: bearer token.
        token_file: file with a bearer token, read again for every call: Kubernetes replaces it.
        cookies: `name=value; name=value` of a browser's session (authservice_session, oauth2_proxy_kubeflow).
        ca_bundle: certificates (PEM) that the endpoint's certificate is checked with.
        timeout: seconds that a call waits for a connection, and for each part of a reply.
    """

    host: str
    namespace: str = ""
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    cookies: str = field(default="", repr=False)
    ca_bundle: Path | None = None
    timeout: float = 30.0

    @classmethod
    def from_environment(
        cls, host: str, namespace: str | None = None, token_file: Path | None = None, ca_bundle: Path | None = None
    ) -> Connection:
        """The connection of a command; token, cookies and timeout come from environment variables.

        Without any of them the token of the pod's service account is used, where Kubernetes has mounted one.

        Raises:
            LhcnetError: the address is no URL, a file is missing, or a value cannot be part of a request.
        """
        try:
            parts = urlsplit(host)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            known = False
        if not known or parts.username:
            shown = without_secrets(host)
            raise LhcnetError(
                f"--host {shown}: expected an address that begins with http:// or https://, without a user"
            )
        token, cookies = (os.environ.get(name, "").strip() for name in (TOKEN, COOKIES))
        for name, value in ((TOKEN, token), (COOKIES, cookies)):
            if not (value.isascii() and value.isprintable()):
                raise LhcnetError(f"{name}: expected one line of ASCII characters")
        mounted = Path(KF_PIPELINES_SA_TOKEN_PATH)
        if not (token or token_file or cookies) and mounted.is_file():
            token_file = mounted
        for option, file in (("--token-file", token_file), ("--ca-bundle", ca_bundle)):
            if file is not None and not file.is_file():
                raise LhcnetError(f"{option} {file}: expected a file")
        host = host.partition("#")[0].partition("?")[0].partition("/apis/")[0].rstrip("/")
        return cls(host, namespace or "", token, token_file, cookies, ca_bundle, _timeout())

    def secrets(self) -> list[str]:
        """Parts of the credentials that no message may show."""
        values = [self.token, self.cookies, *(part.partition("=")[2].strip() for part in self.cookies.split(";"))]
        if self.token_file:
            values.append(_read_token(self.token_file))
        return sorted(filter(None, values), key=len, reverse=True)


class Api(kfp_server_api.ApiClient):  # type: ignore[misc]  # the package has no types
    """Generated client with bounded times; every failure is an `ApiError`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        configuration = kfp_server_api.Configuration(host=connection.host)
        configuration.retries = _NO_RETRIES
        configuration.ssl_ca_cert = str(connection.ca_bundle) if connection.ca_bundle else None
        token_file = connection.token_file
        if connection.token or token_file:
            configuration.api_key["authorization"] = connection.token
            configuration.api_key_prefix["authorization"] = "Bearer"
        if token_file and not connection.token:

            def read_again(changed: Any) -> None:
                changed.api_key["authorization"] = _read_token(token_file)

            configuration.refresh_api_key_hook = read_again
        super().__init__(configuration, cookie=connection.cookies or None)

    def json(self, call: Callable[..., Reply], *args: Any, **options: Any) -> dict[str, Any]:
        """Make a call of the generated client and return the JSON object of its reply.

        Raises:
            ApiError: no reply, a refusal, or a reply that is no JSON object (a login page).
        """
        reply = call(*args, **options, _preload_content=False)
        if reply.is_html:
            raise self.error(
                "answered with a web page instead of JSON: a login page, or the address of a user interface; expected "
                f"{CREDENTIALS}, and behind Kubeflow's gateway a --host that ends in /pipeline",
                reply.status,
            )
        try:
            values = json.loads(reply.body)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            sent = _shortened(reply.text) or "nothing"
            raise self.error(f"expected JSON of Kubeflow Pipelines, but it sent {sent}", reply.status, transient=True)
        return values

    def get(self, path: str, /, **query: str) -> Reply:
        """Call an address that the published description does not have, such as the log of a pod."""
        reply: Reply = self.call_api(
            path,
            "GET",
            query_params=list(query.items()),
            header_params={"Accept": "*/*"},
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            _preload_content=False,
        )
        return reply

    def request(self, method: str, url: str, **options: Any) -> Reply:
        """Make one HTTP request: the only way in which the generated client speaks to the server."""
        seconds = self.connection.timeout
        options |= {"_preload_content": False, "_request_timeout": (seconds, seconds)}
        with self._explained(method, url):
            response = super().request(method, url, **options)
            return Reply(response.status, response.headers.get("content-type", "").lower(), _body(response, seconds))

    def error(self, message: str, status: int = 0, *, transient: bool = False) -> ApiError:
        """An error that names the endpoint and shows no credentials."""
        text = f"{self.connection.host}: {message}"
        for secret in self.connection.secrets():
            text = text.replace(secret, "***")
        return ApiError(text, status, transient=transient)

    @contextmanager
    def _explained(self, method: str, url: str) -> Iterator[None]:
        """Turn what the client raises within the block into an `ApiError`."""
        unsure = "; it may have done it all the same: look at the list of runs" if method == "POST" else ""
        try:
            yield
        except kfp_server_api.ApiException as error:
            if error.status and 300 <= error.status < 400:
                raise self._redirected(url, error) from None
            raise self._refusal(url, error) from None
        except HTTPError as error:
            cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
            if isinstance(cause, NewConnectionError):
                message = f"cannot be reached ({cause.__cause__ or cause}); expected the address of Kubeflow Pipelines"
            elif isinstance(cause, TimeoutError):
                message = f"did not answer within {self.connection.timeout:g} s{unsure}"
            elif isinstance(cause, SSLError):
                message = f"its certificate was not accepted ({cause}); expected --ca-bundle with the certificates"
            else:
                message = f"broke its answer off ({cause.args[0] if cause.args else cause}){unsure}"
            raise self.error(_shortened(message), transient=not isinstance(cause, SSLError)) from None
        except OSError as error:
            raise self.error(f"cannot be asked: {error}") from None

    def _refusal(self, url: str, error: kfp_server_api.ApiException) -> ApiError:
        said, plain = _message(error.body)
        about = f": {said or plain}" if said or plain else ""
        status = int(error.status or 0)
        namespace = self.connection.namespace
        if status == 401:
            given = self.connection.token or self.connection.token_file or self.connection.cookies
            what = "does not accept the credentials" if given else "wants credentials"
            text = f"{what} (401{about}); expected {CREDENTIALS}, which may have expired"
        elif status == 403:
            where = f"in the namespace {namespace}" if namespace else "(is --namespace missing?)"
            text = f"refuses this user (403{about}); expected a user with the role kubeflow-edit {where}"
        elif status == 404 and said:
            text = f"does not have it (404: {said})"
        elif status == 404:
            text = (
                f"there is no Kubeflow Pipelines API at this address (404 for {urlsplit(url).path}); expected the "
                "address of the API, behind Kubeflow's gateway one that ends in /pipeline"
            )
        else:
            text = f"answered {status}{about or f': {error.reason}'}"
        return self.error(text, status, transient=status == 429 or status >= 500)

    def _redirected(self, url: str, response: Any) -> ApiError:
        target = urljoin(url, (response.headers or {}).get("location") or url)
        shown = urlsplit(target)
        if urlsplit(url)[1:3] == shown[1:3] and shown.scheme == "https":
            return self.error("answers only over https; expected a --host that begins with https://", 302)
        return self.error(
            f"sends to {shown.scheme}://{shown.netloc}{shown.path}, a login page; expected {CREDENTIALS}", 302
        )


def _timeout() -> float:
    text = os.environ.get(TIMEOUT, "")
    try:
        seconds = float(text or 30)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise LhcnetError(f"{TIMEOUT}={text}: expected seconds, more than 0 and at most 3600")
    return seconds


def _read_token(file: Path) -> str:
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LhcnetError(f"{file}: cannot be read as a token: {error}") from None
    if not token or not token.isprintable():
        raise LhcnetError(f"{file}: expected a bearer token, one line")
    return token


def _body(response: Any, seconds: float) -> bytes:
    """Read a reply; one that comes drop by drop is broken off after four times the timeout."""
    parts, size, end = [], 0, time.monotonic() + 4 * seconds
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > MAX_REPLY:
            raise HTTPError(f"more than {MAX_REPLY >> 20} MiB")
        if time.monotonic() > end:
            raise HTTPError(f"not complete after {4 * seconds:g} s")
    return b"".join(parts)


def _message(body: bytes | str | None) -> tuple[str, str]:
    """What a server says about an error: the message of the API, or else plain text; both "" for a web page."""
    text = body.decode("utf-8", errors="replace") if isinstance(body, bytes) else body or ""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return "", "" if text.lstrip().startswith("<") else _shortened(text)
    if not isinstance(values, dict):
        return "", _shortened(text)
    return _shortened(str(values.get("message") or values.get("error_message") or values.get("error") or "")), ""


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
