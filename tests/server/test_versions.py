"""The versions of the team's server: a client must not be newer than its server."""

from __future__ import annotations

import re

import pytest
from support.drivers import ROOT


@pytest.mark.parametrize("package", ["mlflow", "boto3"])
def test_the_server_has_the_version_of_the_lock(package: str) -> None:
    versions = [
        re.findall(rf"^{package}(?:\[\w+\])?==([\w.]+)", (ROOT / file).read_text(), re.MULTILINE)
        for file in ("server/requirements.txt", "requirements.lock")
    ]
    assert versions[0] == versions[1]
    assert len(versions[0]) == 1
