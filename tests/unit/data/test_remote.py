"""Sources elsewhere: web servers, S3 and Google's API on real sockets, real DVC repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import google_crc32c
import pytest
from support.web import Answer, Web, serve

from lhcnet.data import remote, remote_stores
from lhcnet.data.remote import fetch, parse_source, reachable_from_cluster, source_record, source_version
from lhcnet.errors import LhcnetError

DATA = bytes(range(256)) * 10_000
SHA256 = hashlib.sha256(DATA).hexdigest()
SHA256_OF_OTHERS = hashlib.sha256(b"others").hexdigest()
VARIABLES = (
    *remote_stores.S3_ENDPOINTS,
    *("MINIO_ENDPOINT", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_PROFILE", "AWS_SESSION_TOKEN"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"),
    *("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", remote_stores.TOKEN),
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody's credentials."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried again."""
    monkeypatch.setattr(remote, "PATIENCE", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def refusal(uri: str, version: str = "", folder: Path = Path()) -> str:
    """The sentence of a source that cannot be had. Nothing is left in `folder`."""
    with pytest.raises(LhcnetError) as raised:
        fetch(uri, version, folder)
    assert folder == Path() or [file for file in folder.iterdir() if file.name != ".dvc-site"] == []
    return str(raised.value)


# --- web servers -------------------------------------------------------------------------------------------


def test_a_file_of_a_web_server_is_fetched_and_checked(web: Web, folder: Path) -> None:
    uri = web.put("/faces%20v1.zip", Answer(DATA, headers={"ETag": '"abc"'}))
    assert source_version(uri) == "etag:abc"
    for version in ("", "etag:abc", f"sha256:{SHA256}"):
        file = fetch(uri, version, folder)
        assert file == folder / "faces_v1.zip"
        assert file.read_bytes() == DATA
    assert fetch(f"{uri}#sha256={SHA256.upper()}", "etag:abc", folder).read_bytes() == DATA
    assert [file.name for file in folder.iterdir()] == ["faces_v1.zip"]
    assert source_version(f"{uri}#sha256={SHA256}") == f"sha256:{SHA256}"


@pytest.mark.parametrize(
    ("suffix", "version"),
    [
        (f"#sha256={SHA256_OF_OTHERS}", ""),
        ("", f"sha256:{SHA256_OF_OTHERS}"),
        ("", "etag:other"),
        (f"#sha256={SHA256}", "etag:other"),
        (f"#sha256={SHA256_OF_OTHERS}", "etag:abc"),
        ("", "md5:abc"),
    ],
)
def test_other_bytes_are_refused(web: Web, folder: Path, suffix: str, version: str) -> None:
    uri = web.put("/faces.zip", Answer(DATA, headers={"ETag": 'W/"abc"'}))
    assert "these are other data than expected" in refusal(uri + suffix, version, folder)


def test_a_server_without_etag_needs_a_digest(web: Web, folder: Path) -> None:
    uri = web.put("/faces.csv", Answer(DATA, length=None))
    with pytest.raises(LhcnetError, match=r"gives no ETag to check; expected #sha256="):
        source_version(uri)
    assert fetch(f"{uri}#sha256={SHA256}", "", folder).read_bytes() == DATA


@pytest.mark.parametrize("failed", [Answer(status=503), Answer(status=429), Answer(DATA[:100], length=len(DATA))])
def test_what_passes_is_tried_again(web: Web, folder: Path, failed: Answer, caplog: pytest.LogCaptureFixture) -> None:
    uri = web.put("/faces.csv", failed, failed, Answer(DATA))
    assert fetch(uri, "", folder).read_bytes() == DATA
    assert len(web.seen) == 3
    assert caplog.text.count("it is tried again") == 2


def test_patience_ends(web: Web, folder: Path, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    assert "given up after" in refusal(web.put("/faces.csv", Answer(status=500)), "", folder)
    monkeypatch.setattr(remote_stores, "READ_SECONDS", 0.2)
    said = refusal(web.put("/slow.csv", Answer(DATA, before=lambda: time.sleep(1))), "", folder)
    assert "127.0.0.1 did not answer in time" in said
    assert "Connection refused" in refusal("http://127.0.0.1:9/faces.csv", "", folder)
    assert "host nowhere.invalid is unknown" in refusal("http://nowhere.invalid/faces.csv", "", folder)
    assert time.monotonic() - started < 60


def test_a_transfer_that_trickles_ends(web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LONGEST", 0.0)
    assert "not complete after 0 s" in refusal(web.put("/faces.csv", Answer(DATA)), "", folder)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(status=401), "access denied (status 401); expected a token in LHCNET_SOURCE_TOKEN"),
        (Answer(status=403), "access denied (status 403)"),
        (Answer(status=404), "there is no such file or bucket (status 404)"),
        (Answer(status=302, headers={"Location": "/faces.csv"}), "TooManyRedirects"),
        (Answer(b"<html>", headers={"Content-Type": "text/html; charset=utf-8"}), "is it a login page?"),
        (Answer(length=3 << 30), "3,221,225,472 bytes or more, expected at most 2,147,483,648"),
    ],
)
def test_refusals_are_final(web: Web, folder: Path, answer: Answer, said: str) -> None:
    started = time.monotonic()
    assert said in refusal(web.put("/faces.csv", answer), "", folder)
    assert time.monotonic() - started < 3


def test_a_stream_without_length_is_bounded(web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_SIZE", 1 << 20)
    assert "bytes or more" in refusal(web.put("/faces.csv", Answer(DATA, length=None)), "", folder)


def test_space_is_proven_before_the_download(web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    assert "expected 2.6 MB of free disk space for it, found 0.1 MB" in refusal(
        web.put("/faces.csv", Answer(DATA)), "", folder
    )


# --- certificates and secrets ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that nobody trusts, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + made.public_bytes(encoding))
    return file


@pytest.mark.parametrize(
    ("scheme", "bundle"), [("https", "REQUESTS_CA_BUNDLE"), ("s3", "AWS_CA_BUNDLE")], ids=["https", "s3"]
)
def test_certificates(
    certificate: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, bundle: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with serve(certificate) as web:
        web.put("/faces/x.csv", Answer(DATA, headers={"ETag": '"a"'}))
        uri = f"{web.url}/faces/x.csv" if scheme == "https" else "s3://faces/x.csv"
        monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
        said = refusal(uri, "", folder)
        assert "the certificate of localhost is not trusted" in said
        assert bundle in said
        monkeypatch.setenv(bundle, str(folder / "nowhere.pem"))
        assert "the CA bundle cannot be read" in refusal(uri, "", folder)
        monkeypatch.setenv(bundle, str(certificate))
        assert fetch(uri, "etag:a", folder).read_bytes() == DATA


def test_the_token_goes_to_https_alone_and_is_never_shown(
    certificate: Path, web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(remote_stores.TOKEN, "hush")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with serve(certificate) as safe:
        uri = safe.put("/faces.csv", Answer(status=503), Answer(DATA, headers={"ETag": "a"})) + "?signature=hush"
        with caplog.at_level("INFO"):
            fetch(uri, "", folder)
        assert safe.seen[-1][1]["authorization"] == "Bearer hush"
        assert "/faces.csv?..." in caplog.text
        said = [caplog.text, json.dumps(source_record(uri, "etag:a"))]
        said.append(refusal(safe.put("/no.csv", Answer(status=403)) + "?signature=hush"))
    web.put("/faces.csv", Answer(DATA))
    fetch(f"{web.url}/faces.csv", "", folder)
    assert "authorization" not in web.seen[-1][1]
    monkeypatch.setattr(remote, "PATIENCE", 0.0)
    said.append(refusal("http://127.0.0.1:9/faces.csv?signature=hush"))
    said.append(refusal("https://user:hush@host/faces.csv"))
    said.append(refusal("dvc+https://hush@host/repo.git@v1:faces.csv"))
    assert "hush" not in " ".join(said)


# --- S3 ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """An S3 server in a process of its own; its URL."""
    program = (
        "import sys\nfrom moto.server import ThreadedMotoServer\n"
        "server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)\nserver.start()\n"
        "print(server.get_host_and_port()[1], flush=True)\nsys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdin
        assert server.stdout
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of another name than the pipeline's, with one object."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = boto3.client("s3", endpoint_url=store, region_name="us-east-1")
    client.create_bucket(Bucket="faces-of-others")
    client.put_object(Bucket="faces-of-others", Key="raw/fer 2013.zip", Body=DATA)
    return "faces-of-others"


@pytest.mark.parametrize(
    ("scheme", "variable"),
    [
        ("s3", "AWS_ENDPOINT_URL"),
        ("s3", "MLFLOW_S3_ENDPOINT_URL"),
        ("minio", "AWS_ENDPOINT_URL_S3"),
        ("minio", "MINIO_ENDPOINT"),
    ],
)
def test_an_object_of_another_bucket(
    store: str, bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, variable: str
) -> None:
    monkeypatch.setenv(variable, store.removeprefix("http://") if variable == "MINIO_ENDPOINT" else store)
    uri = f"{scheme}://{bucket}/raw/fer 2013.zip"
    version = f"etag:{hashlib.md5(DATA).hexdigest()}"
    assert source_version(uri) == version
    file = fetch(uri, version, folder)
    assert file == folder / "fer_2013.zip"
    assert file.read_bytes() == DATA
    file.unlink()
    assert "other data than expected" in refusal(uri, "etag:other", folder)
    assert "there is no such file or bucket (status 404, NoSuchKey)" in refusal(f"{scheme}://{bucket}/raw", "", folder)
    assert f"there is no bucket nobodys at {store}" in refusal(f"{scheme}://nobodys/raw", "", folder)


def test_settings_of_s3_that_are_missing(web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "endpoint not set; expected AWS_ENDPOINT_URL=" in refusal("minio://bucket/x.zip", "", folder)
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    assert "no credentials; expected AWS_ACCESS_KEY_ID" in refusal("s3://bucket/x.zip", "", folder)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    denied = b"<Error><Code>SignatureDoesNotMatch</Code><Message>secret</Message></Error>"
    web.put("/bucket/x.zip", Answer(denied, status=403))
    said = refusal("s3://bucket/x.zip", "", folder)
    assert "access denied (status 403, SignatureDoesNotMatch); expected keys in AWS_ACCESS_KEY_ID" in said
    assert "secret" not in said
    web.seen.clear()
    busy = Answer(b"<Error><Code>SlowDown</Code></Error>", status=503)
    broken = Answer(DATA[:1000], length=len(DATA), headers={"ETag": '"a"'})
    web.put("/bucket/x.zip", busy, broken, Answer(DATA, headers={"ETag": '"a"'}))
    file = fetch("s3://bucket/x.zip", "etag:a", folder)
    assert file.read_bytes() == DATA
    assert len(web.seen) == 3
    file.unlink()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(remote, "PATIENCE", 0.0)
    assert "connection to 127.0.0.1: Connection refused" in refusal("s3://bucket/y.zip", "", folder)


# --- Google Cloud Storage ----------------------------------------------------------------------------------


def test_an_object_of_google(web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no credentials; expected" in refusal("gs://faces/raw/x.zip", "", folder)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.url)
    crc = base64.b64encode(google_crc32c.value(DATA).to_bytes(4, "big")).decode()
    facts = {"name": "raw/x.zip", "bucket": "faces", "size": str(len(DATA)), "etag": "CAE=", "generation": "7"}

    def put(crc32c: str) -> None:
        described = Answer(
            json.dumps(facts | {"crc32c": crc32c}).encode(), headers={"Content-Type": "application/json"}
        )
        web.put("/storage/v1/b/faces/o/raw%2Fx.zip", described)

    put(crc)
    ranges = {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"}
    end = Answer(status=416, headers={"Content-Range": f"bytes */{len(DATA)}"})
    web.put("/download/storage/v1/b/faces/o/raw%2Fx.zip", Answer(DATA, 206, ranges), end)
    assert source_version("gs://faces/raw/x.zip") == "etag:CAE="
    assert fetch("gs://faces/raw/x.zip", "etag:CAE=", folder).read_bytes() == DATA
    assert any("ifGenerationMatch=7" in path for path, _ in web.seen)
    (folder / "x.zip").unlink()
    put("AAAAAA==")
    monkeypatch.setattr(remote, "PATIENCE", 0.0)
    web.put("/download/storage/v1/b/faces/o/raw%2Fx.zip", Answer(DATA, 206, ranges), end)
    assert "damaged on its way (CRC32C)" in refusal("gs://faces/raw/x.zip", "", folder)
    assert "there is no such file or bucket" in refusal("gs://faces/none.zip", "", folder)
    web.put("/storage/v1/b/faces/o/x.zip", Answer(b"{}", 403))
    assert "access denied (status 403); expected credentials that may read it in GOOGLE" in refusal(
        "gs://faces/x.zip", "", folder
    )


# --- DVC ---------------------------------------------------------------------------------------------------


def run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Git repository with two revisions of a file and a folder that DVC tracks, in a remote beside it."""
    folder = tmp_path_factory.mktemp("dvc") / "repo"
    dvc = (sys.executable, "-m", "dvc")
    (folder / "data" / "images" / "train").mkdir(parents=True)
    run(folder, "git", "init", "-q")
    run(folder, *dvc, "init", "-q")
    run(folder, *dvc, "remote", "add", "-q", "-d", "beside", str(folder.parent / "remote"))
    (folder / "data" / "images" / "train" / "b.png").write_bytes(b"b")
    (folder / "data" / "images" / "a.png").write_bytes(b"a")
    for revision, content in (("v1", DATA), ("v2", b"others")):
        (folder / "data" / "faces.csv").write_bytes(content)
        run(folder, *dvc, "add", "-q", "data/faces.csv", "data/images")
        run(folder, "git", "add", "-A")
        run(folder, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", revision)
        run(folder, "git", "tag", revision)
        run(folder, *dvc, "push", "-q")
    shutil.rmtree(folder / ".dvc" / "cache")
    return folder


def test_a_revision_of_dvc(repository: Path, folder: Path) -> None:
    uri = f"dvc+file://{repository}@v1:data/faces.csv"
    version = source_version(uri)
    assert version == f"md5:{hashlib.md5(DATA).hexdigest()}"
    assert fetch(f"{uri}#sha256={SHA256}", version, folder) == folder / "faces.csv"
    assert (folder / "faces.csv").read_bytes() == DATA
    assert source_record(uri, version) == {
        "source": uri,
        "source_version": version,
        "dvc_repo": f"file://{repository}",
        "dvc_rev": "v1",
        "dvc_path": "data/faces.csv",
    }
    (folder / "faces.csv").unlink()
    assert "other data than expected" in refusal(uri.replace("@v1", "@v2"), version, folder)


def test_a_folder_of_dvc(repository: Path, folder: Path) -> None:
    uri = f"dvc+file://{repository}@v2:data/images"
    version = source_version(uri)
    assert version.endswith(".dir")
    assert (fetch(uri, version, folder) / "train" / "b.png").read_bytes() == b"b"


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("@v9:data/faces.csv", "unknown Git revision 'v9'"),
        ("@v1:data/none.csv", "revision v1 has no data/none.csv"),
        ("@v1:data/faces.csv.dvc", "DVC does not track data/faces.csv.dvc"),
        ("none@v1:data/faces.csv", "No git repository was found"),
    ],
)
def test_what_dvc_does_not_have(repository: Path, folder: Path, end: str, said: str) -> None:
    assert said in refusal(f"dvc+file://{repository}{end}", "", folder)


def test_damaged_data_in_the_remote_of_dvc(repository: Path, folder: Path, tmp_path: Path) -> None:
    from lhcnet.data.remote_dvc import dvc_get

    copied = tmp_path / "copy"
    shutil.copytree(repository.parent, copied)
    run(copied / "repo", sys.executable, "-m", "dvc", "remote", "modify", "beside", "url", str(copied / "remote"))
    run(copied / "repo", "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "x")
    (stored,) = (file for file in (copied / "remote").rglob("*") if file.is_file() and file.read_bytes() == DATA)
    stored.chmod(0o644)
    stored.write_bytes(DATA[::-1])
    run(copied / "repo", "git", "checkout", "-q", "v1", "--", "data/faces.csv.dvc")
    run(copied / "repo", "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "y")
    run(copied / "repo", "git", "tag", "v3")
    source = parse_source(f"dvc+file://{copied / 'repo'}@v3:data/faces.csv").dvc
    assert source
    with pytest.raises(LhcnetError, match=r"other data than its revision says|could not read"):
        dvc_get(source, "shown", hashlib.md5(DATA).hexdigest(), folder, 100)


# --- paths, parsing, clusters --------------------------------------------------------------------------------


def test_a_path_is_used_in_place(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "faces #1.csv"
    file.write_bytes(DATA)
    for uri in (str(file), file.as_uri(), f"file:{file}".replace("#", "%23")):
        assert source_version(uri) == f"sha256:{SHA256}"
        assert fetch(f"{uri}#sha256={SHA256}", f"sha256:{SHA256}", folder) == file
        assert "other data than expected" in refusal(f"{uri}#sha256={SHA256_OF_OTHERS}", "", folder)
    before = source_version(str(tmp_path))
    (tmp_path / "more.csv").write_bytes(b"")
    assert source_version(str(tmp_path)) != before
    with pytest.raises(LhcnetError, match=r"/none\.csv cannot be read: no such file; of a file on a cluster's volume"):
        source_version(f"file://{tmp_path}/none.csv")
    assert fetch("data/none.csv", "", folder) == Path("data/none.csv")  # the reader says what is wrong


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ftp://host/x.zip", "unknown kind ftp://, expected a path"),
        ("s3://bucket", "expected one file"),
        ("s3://bucket/folder/", "expected one file"),
        ("https:///x.zip", "expected one file"),
        ("https://host:port/x.zip", "is no URI"),
        ("https://host/x.zip#sha256=abc", "64 hexadecimal digits"),
        ("file://host/x.zip", "expected file:///PATH"),
        ("dvc+https://host/repo.git:data/x.zip", "expected dvc+https://HOST/REPO.git@REV:PATH"),
        ("dvc+https://host/repo.git@v1", "expected dvc+https://HOST/REPO.git@REV:PATH"),
        ("dvc+https://host@v1:data", "is no URI"),
        ("dvc+https://host/repo.git@v1:../x", "expected dvc+https://HOST/REPO.git@REV:PATH"),
        ("dvc+https://host/repo.git@--help:x", "expected dvc+https://HOST/REPO.git@REV:PATH"),
    ],
)
def test_wrong_uris(uri: str, said: str) -> None:
    with pytest.raises(LhcnetError) as raised:
        parse_source(uri)
    assert said in str(raised.value)


def test_what_a_cluster_reaches() -> None:
    for uri in (
        "s3://b/x.zip",
        "minio://b/x.zip",
        "gs://b/x.zip",
        "https://host/x.zip",
        "file:///data/x.zip",
        "dvc+https://host/repo.git@v1:x.zip",
        "dvc+ssh://git@host/repo.git@v1:x.zip",
    ):
        assert reachable_from_cluster(uri) == ""
    for uri, said in {
        "data/raw/x.zip": "is a path on this machine",
        "/data/x.zip": "file:///PATH",
        "file:data/x.zip": "is a path on this machine",
        "http://127.0.0.1:8000/x.zip": "is on this machine",
        "dvc+https://localhost/repo.git@v1:x": "is on this machine",
        "ftp://host/x.zip": "unknown kind",
    }.items():
        assert said in reachable_from_cluster(uri)
