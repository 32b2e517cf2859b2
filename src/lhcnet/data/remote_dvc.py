"""Data that DVC tracks in a Git repository, through its commands `dvc list` and `dvc get`.

DVC runs in a process of its own, which has a time limit, and whose import does not slow down this one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from lhcnet.data.remote_stores import S3_ENDPOINTS, TOKEN, TransientError, redact
from lhcnet.errors import LhcnetError

_LIST_SECONDS = 300.0
_PASSING = re.compile(
    r"timed? ?out|reset by peer|refused|unreachable|broken pipe|temporar|remote end closed|incomplete"
    r"|max retries exceeded|could not connect|\b(429|50[0234])\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class DvcSource:
    """A path in a revision of a DVC repository."""

    repo: str  # URL of the Git repository
    rev: str
    path: str

    @property
    def host(self) -> str:
        """Host of the repository; "" for one in a folder."""
        return urlsplit(self.repo).hostname or ""


def parse_dvc(uri: str, shown: str) -> DvcSource:
    """Parse `dvc+https://host/repo.git@REV:path`."""
    found = re.fullmatch(r"dvc\+(?P<repo>\w+://.+)@(?P<rev>[^@:\s-][^@:\s]*):(?P<path>[^:]+)", uri)
    path = PurePosixPath(found["path"]) if found else PurePosixPath()
    if (
        not found
        or not urlsplit(found["repo"]).path.strip("/")
        or path.is_absolute()
        or {"", ".."} & {path.name, *path.parts}
    ):
        raise LhcnetError(
            f"data.source: {shown}: expected dvc+https://HOST/REPO.git@REV:PATH with a revision (a commit or tag) and "
            "a path inside the repository"
        )
    return DvcSource(found["repo"], found["rev"], str(path))


def dvc_md5(source: DvcSource, shown: str, folder: Path) -> tuple[str, int]:
    """MD5 of a tracked file, or of a tracked folder (then it ends in `.dir`), and its size in bytes.

    Raises:
        TransientError: the repository cannot be reached at the moment.
        LhcnetError: there is no such repository, revision or path, access is denied, or DVC does not track the path.
    """
    path = PurePosixPath(source.path)
    parent = [] if path.parent == PurePosixPath() else [str(path.parent)]
    options = ["list", "--json", "--show-hash", "--size", "--rev", source.rev]
    listed = json.loads(_dvc(source, shown, folder, _LIST_SECONDS, *options, "--", _repo(source), *parent))
    entry = next((entry for entry in listed if entry["path"] == path.name), None)
    if entry is None:
        raise LhcnetError(f"{shown}: revision {source.rev} has no {source.path}; expected a path that DVC tracks")
    if not entry.get("md5"):
        raise LhcnetError(
            f"{shown}: DVC does not track {source.path} in revision {source.rev}; expected what `dvc add` added"
        )
    return str(entry["md5"]), int(entry.get("size") or 0)


def dvc_get(source: DvcSource, shown: str, md5: str, folder: Path, seconds: float) -> Path:
    """Download a tracked file or folder and check it.

    Args:
        source: what to get.
        shown: the URI to show.
        md5: as of `dvc_md5`.
        folder: where to put it, under its own name.
        seconds: longest duration.
    """
    target = folder / PurePosixPath(source.path).name
    unchecked = folder / f".unchecked-{target.name}"
    _dvc(
        source,
        shown,
        folder,
        seconds,
        "get",
        "--force",
        "--rev",
        source.rev,
        "-o",
        str(unchecked),
        "--",
        _repo(source),
        source.path,
    )
    found = _md5(unchecked)
    if found != md5:
        raise LhcnetError(
            f"{shown}: DVC's remote holds other data than its revision says (md5 {found}, expected {md5})"
        )
    unchecked.replace(target)
    return target


def _md5(path: Path) -> str:
    """DVC's MD5 of a file, or of a folder: of its list of files as JSON."""
    if path.is_dir():
        files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
        listing = [{"md5": _md5(file), "relpath": name} for name, file in files]
        return f"{hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest()}.dir"
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _repo(source: DvcSource) -> str:
    """URL of the repository, with the token in it if there is one."""
    token = os.environ.get(TOKEN, "")
    if token and source.repo.startswith("https://"):
        return source.repo.replace("https://", f"https://oauth2:{quote(token, safe='')}@", 1)
    return source.repo.removeprefix("file://") if source.repo.startswith("file:///") else source.repo


def _dvc(source: DvcSource, shown: str, folder: Path, seconds: float, *arguments: str) -> str:
    environment = os.environ | {
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc-site"),  # else below /var, which a pod may not write
        "GIT_TERMINAL_PROMPT": "0",
    }
    endpoint = next((value for name in S3_ENDPOINTS if (value := os.environ.get(name, ""))), "")
    if endpoint:
        environment.setdefault("AWS_ENDPOINT_URL", endpoint)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise LhcnetError(f"{shown}: DVC was not done after {seconds:,.0f} s") from None
    if done.returncode == 0:
        return done.stdout
    said = redact(done.stderr)
    errors = (
        [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines() or ["no reason given"]
    )
    reason = errors[0].removeprefix("ERROR: ").removeprefix("unexpected error - ")[:300]
    if re.search(r"certificate", said, re.IGNORECASE):
        raise LhcnetError(
            f"{shown}: the certificate of {source.host} is not trusted; expected it in a CA bundle: {reason}"
        )
    if re.search(
        r"unable to locate credentials|forbidden|access ?denied|authentication|\b40[13]\b", said, re.IGNORECASE
    ):
        raise LhcnetError(
            f"{shown}: access denied; expected {TOKEN} for the repository (https) and the keys of DVC's remote: "
            f"{reason}"
        )
    if _PASSING.search(said):
        raise TransientError(f"DVC: {reason}")
    raise LhcnetError(f"{shown}: DVC could not read it: {reason}")
