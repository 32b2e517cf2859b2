"""A process that computes starts again with the allocator's settings, once, and with the same arguments."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.drivers import ROOT

from lhcnet import allocator

PROGRAM = """
import os, sys
from lhcnet.allocator import restart_tuned
print("started", flush=True)
restart_tuned(sys.argv[1:])
print(os.environ.get("GLIBC_TUNABLES"), *sys.argv[1:])
"""
glibc = pytest.mark.skipif(not allocator._has_tunables(), reason="settings of glibc, and this is another C library")


def lines(*arguments: str, **given: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != allocator.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environment | {"PYTHONPATH": str(ROOT / "src")} | given,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@glibc
def test_a_training_starts_again_with_the_settings() -> None:
    assert lines("train", "a b", "--stage") == ["started", "started", f"{allocator.TUNABLES} train a b --stage"]


@glibc
def test_settings_of_the_user_stay() -> None:
    assert lines("train", GLIBC_TUNABLES="glibc.malloc.check=0") == ["started", "glibc.malloc.check=0 train"]
    assert allocator.environment({allocator.VARIABLE: "mine"}) == {allocator.VARIABLE: "mine"}


def test_other_commands_start_once() -> None:
    assert lines("show", "train") == ["started", "None show train"]
    assert lines() == ["started", "None"]


def test_the_image_has_the_settings() -> None:
    assert f"{allocator.VARIABLE}={allocator.TUNABLES}\n" in (ROOT / "Dockerfile").read_text()
