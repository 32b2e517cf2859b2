"""Connections to Kubeflow Pipelines: credentials reach the server, and every wrong reply ends in one sentence."""

from __future__ import annotations

import datetime
import ipaddress
import socket
from pathlib import Path

import pytest
from click.testing import Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.kubeflow_server import Fault, KubeflowServer, drops, half, html, redirect, sends, silent

from lhcnet.errors import LhcnetError
from pipeline.backend import Backend
from pipeline.connection import ApiError, Connection

from .conftest import Command

RUN = "00000001-0000-4000-8000-000000000001"
COMMANDS = ("status", "wait", "terminate", "retry", "reconcile")
QUESTIONS = [*([name, RUN] for name in COMMANDS), ["logs", RUN, "train"]]


def sentence(result: Result) -> str:
    """The one sentence that a command ended with."""
    assert isinstance(result.exception, LhcnetError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


WRONG_REPLIES: dict[str, tuple[Fault, str]] = {
    "login page": (html, "web page instead of JSON: a login page"),
    "redirect": (redirect, "sends to https://auth.example/dex/auth, a login page; expected a token in"),
    "401": (sends("Unauthorized", 401, "text/plain"), "wants credentials (401: Unauthorized)"),
    "403": (
        sends('{"code": 7, "message": "User x is not allowed to get runs"}', 403),
        "refuses this user (403: User x is not allowed to get runs); expected a user with the role kubeflow-edit",
    ),
    "403 of the mesh": (
        sends("RBAC: access denied", 403, "text/plain"),
        "refuses this user (403: RBAC: access denied)",
    ),
    "404 of a web site": (
        sends("<html>not here</html>", 404, "text/html"),
        "no Kubeflow Pipelines API at this address",
    ),
    "404 in plain text": (sends("404 page not found", 404, "text/plain"), "no Kubeflow Pipelines API at this address"),
    "404 of the run": (sends('{"code": 5, "message": "Run x not found"}', 404), "does not have it (404: Run x not"),
    "500": (sends('{"message": "disk full", "code": 13}', 500), "answered 500: disk full"),
    "502": (sends("<html>Bad Gateway</html>", 502, "text/html"), "answered 502: Bad Gateway"),
    "empty": (sends(""), "but it sent nothing"),
    "empty JSON": (sends("{}"), "answered without run_id; is it a Kubeflow Pipelines endpoint?"),
    "a list": (sends("[1]"), "expected JSON of Kubeflow Pipelines, but it sent [1]"),
    "another run": (sends('{"run_id": "other"}'), f"was asked for run {RUN} and sent run other"),
    "not JSON": (sends('{"run_id": '), "expected JSON of Kubeflow Pipelines"),
    "half": (half, "broke its answer off"),
    "drops": (drops, "broke its answer off (not complete after"),
    "silence": (silent, "did not answer within 0.1 s"),
}


@pytest.mark.parametrize("reply", WRONG_REPLIES)
def test_a_wrong_reply_is_one_sentence(
    reply: str, server: KubeflowServer, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, says = WRONG_REPLIES[reply]
    server.faults = {"GET /apis/v2beta1/runs": fault}
    if reply in ("silence", "drops"):
        monkeypatch.setenv("KF_PIPELINES_TIMEOUT", "0.1")
    for question in QUESTIONS:
        shown = sentence(command(*question))
        assert says in shown
        assert shown.startswith(server.url)


@pytest.mark.parametrize(
    "reply", ["login page", "redirect", "401", "403", "404 in plain text", "502", "half", "silence"]
)
def test_a_wrong_reply_at_submission_creates_nothing(
    reply: str, server: KubeflowServer, submit: Command, precompiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, says = WRONG_REPLIES[reply]
    server.faults = {".*": fault}
    if reply == "silence":
        monkeypatch.setenv("KF_PIPELINES_TIMEOUT", "0.1")
    assert says in sentence(submit())
    assert server.calls() == ["GET /apis/v2beta1/healthz"]


def test_a_run_that_may_have_been_created_is_said_so(
    server: KubeflowServer, submit: Command, precompiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults = {"POST /apis/v2beta1/runs": silent}
    monkeypatch.setenv("KF_PIPELINES_TIMEOUT", "0.5")
    assert "did not answer within 0.5 s; it may have done it all the same: look at the list" in sentence(submit())
    server.faults = {"POST /apis/v2beta1/runs": html}
    assert "web page instead of JSON" in sentence(submit())
    server.faults = {"POST /apis/v2beta1/runs": sends("{}")}
    assert "answered without run_id" in sentence(submit())


def test_nobody_listens(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert "cannot be reached" in sentence(command("status", RUN, "--host", address))
    assert "cannot be reached" in sentence(command("status", RUN, "--host", "http://no-such-host.invalid"))
    for host in ("kubeflow.example", "http://[", "http://host:port", "ftp://host", "http://me:hunter2@host"):
        shown = sentence(command("status", RUN, "--host", host))
        assert "begins with http:// or https://" in shown
        assert "hunter2" not in shown


def test_a_token_a_token_file_and_cookies_reach_the_server(
    server: KubeflowServer, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = server.add_run()
    server.token = "s3cr3t"
    assert "wants credentials (401" in sentence(command("status", run))
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "s3cr3t")
    assert command("status", run).exit_code == 0
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "expired")
    assert "does not accept the credentials (401" in sentence(command("status", run))
    monkeypatch.delenv("KF_PIPELINES_TOKEN")
    (tmp_path / "token").write_text("s3cr3t\n")
    assert command("status", run, "--token-file", str(tmp_path / "token")).exit_code == 0
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert command("status", run).exit_code == 0
    server.token, server.cookie = "", "authservice_session=MTY3; other=1"
    assert "a login page" in sentence(command("status", run))
    monkeypatch.setenv("KF_PIPELINES_COOKIES", "authservice_session=MTY3; other=1")
    assert command("status", run).exit_code == 0


def test_the_token_of_a_pod_is_used_where_kubernetes_mounts_one(
    server: KubeflowServer, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = server.add_run()
    server.token = "of-the-pod"
    (tmp_path / "token").write_text("of-the-pod")
    monkeypatch.setattr("pipeline.connection.KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert command("status", run).exit_code == 0


def test_a_token_file_is_read_again_for_every_call(server: KubeflowServer, tmp_path: Path) -> None:
    run = server.add_run()
    file = tmp_path / "token"
    file.write_text("first")
    backend = Backend(Connection(server.url, token_file=file))
    server.token = "first"
    backend.run(run)
    server.token = "second"
    with pytest.raises(ApiError, match="401"):
        backend.run(run)
    file.write_text("second")
    assert backend.run(run).state == "SUCCEEDED"
    file.unlink()
    with pytest.raises(LhcnetError, match="cannot be read as a token"):
        backend.run(run)


def test_credentials_are_never_shown(
    server: KubeflowServer, command: Command, submit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "s3cr3t-token")
    monkeypatch.setenv("KF_PIPELINES_COOKIES", "authservice_session=MTY3-cookie")
    echo = "no access for Bearer s3cr3t-token, authservice_session=MTY3-cookie"
    for status in (400, 401, 403, 404, 500):
        server.faults = {".*": sends(f'{{"message": "{echo}"}}', status)}
        shown = sentence(command("status", RUN))
        assert "no access for Bearer ***" in shown
        assert "s3cr3t" not in shown
        assert "MTY3" not in shown
    server.faults = {}
    result = submit()
    assert result.exit_code == 0
    for secret in ("s3cr3t", "MTY3", "hunter2"):
        assert secret not in result.output
    assert "s3cr3t" not in repr(Connection.from_environment(server.url))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KF_PIPELINES_TOKEN", "two\nlines", "expected one line of ASCII characters"),
        ("KF_PIPELINES_COOKIES", "session=ö", "expected one line of ASCII characters"),
        ("KF_PIPELINES_TIMEOUT", "soon", "expected seconds"),
        ("KF_PIPELINES_TIMEOUT", "0", "expected seconds"),
        ("KF_PIPELINES_SA_TOKEN_PATH", "nowhere", "--token-file nowhere: expected a file"),
        ("KF_PIPELINES_CA_BUNDLE", "nowhere", "--ca-bundle nowhere: expected a file"),
    ],
)
def test_a_wrong_setting_is_named(
    name: str, value: str, says: str, server: KubeflowServer, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    shown = sentence(command("status", RUN))
    assert says in shown
    assert "ö" not in shown
    assert server.requests == []


def test_the_address_behind_a_gateway(command: Command) -> None:
    with KubeflowServer(prefix="/pipeline", user_interface=True) as server:
        run = server.add_run()
        for host in (server.url, f"{server.url}/", f"{server.url}/#/runs", f"{server.url}/apis/v2beta1"):
            assert command("status", run, "--host", host).exit_code == 0
        elsewhere = server.url.removesuffix("/pipeline")
        assert "one that ends in /pipeline" in sentence(command("status", run, "--host", elsewhere))


def test_a_certificate_is_checked_with_the_bundle(command: Command, tmp_path: Path) -> None:
    key, certificate = _certificate()
    (tmp_path / "server.pem").write_bytes(key + certificate)
    (tmp_path / "ca.pem").write_bytes(certificate)
    with KubeflowServer(certificate=tmp_path / "server.pem") as server:
        run = server.add_run()
        assert command("status", run, "--host", server.url, "--ca-bundle", "ca.pem").exit_code == 0
        refused = sentence(command("status", run, "--host", server.url))
        assert "its certificate was not accepted" in refused
        assert "--ca-bundle" in refused
        (tmp_path / "empty.pem").write_text("")
        assert "certificate" in sentence(command("status", run, "--host", server.url, "--ca-bundle", "empty.pem"))


def test_https_alone(server: KubeflowServer, command: Command) -> None:
    secure = server.url.replace("http:", "https:")
    server.faults = {".*": lambda handler: handler.send(301, "", "text/html", Location=f"{secure}{handler.path}")}
    assert "expected a --host that begins with https://" in sentence(command("status", RUN))


def _certificate() -> tuple[bytes, bytes]:
    """(private key, self-signed certificate) of 127.0.0.1 as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, built.public_bytes(pem)
