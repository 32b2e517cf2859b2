"""Start weights at an address: a file of an object store or a web server, downloaded once into the cache.

The step `start_weights` alone imports this: no training depends on the code that downloads.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from lhcnet.data.remote import Source, fetch, parse_source
from lhcnet.errors import LhcnetError
from lhcnet.weights.imagenet import CACHE, cache_folder

SETTING = "network.weights"


def is_address(weights: str) -> bool:
    """Whether the setting `network.weights` is an address, not a path."""
    return "://" in weights


def parse_address(weights: str) -> Source:
    """Parse an address of start weights.

    Raises:
        LhcnetError: it is none, has a password in it, or does not name the digest of the file.
    """
    source = parse_source(weights, SETTING)
    if not source.sha256:
        raise LhcnetError(
            f"{SETTING}: {source.shown}: expected #sha256=<64 hex digits> at the end, the digest of the file"
        )
    return source


def address_file(weights: str) -> Path:
    """The file at an address; `file:///` is used in place. What is in the cache already is not downloaded again.

    Raises:
        LhcnetError: the file cannot be had, or is another one than its digest says.
    """
    folder = cache_folder() / parse_address(weights).sha256
    for file in filter(Path.is_file, folder.glob("*")):
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() == folder.name:
                return file
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LhcnetError(f"{CACHE}: {folder} cannot be made: {error.strerror or error}") from None
    return fetch(weights, "", folder, SETTING)
