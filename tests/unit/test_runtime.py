"""Settings of the process: the CPU limit of a container, and memory that runs out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lhcnet import runtime
from lhcnet.cgroup import cpu_limit, memory_exhausted, oom_kills
from lhcnet.config import Compute
from lhcnet.errors import LhcnetError
from lhcnet.runtime import memory_errors, open_device

V1 = "sys/fs/cgroup/cpu,cpuacct"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "many"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "400000 100000"}, 4),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
            },
            2,
        ),
        ({"proc/self/cgroup": "0::/../../pod\n", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "9:memory:/x\n4:cpu,cpuacct:/docker/1\n",
                f"{V1}/cpu.cfs_quota_us": "150000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/1\n",
                f"{V1}/docker/1/cpu.cfs_quota_us": "-1\n",
                f"{V1}/docker/1/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "4:cpuset:/\nnothing\n", "sys/fs/cgroup/cpu.max": "100000 100000"}, None),
    ],
    ids=range(12),
)
def test_the_cpu_limit_of_a_container(files: dict[str, str], cores: int | None, tmp_path: Path) -> None:
    assert cpu_limit(tree(tmp_path, files)) == cores


@pytest.mark.parametrize(("threads", "limit", "expected"), [(0, 2, 2), (0, 9, 4), (0, None, 4), (3, 2, 3)])
def test_threads_follow_the_limit_unless_they_are_set(
    threads: int, limit: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "cpu_limit", lambda: limit)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        open_device(Compute(device="cpu", threads=threads))
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a memory object"),
    ],
)
def test_memory_that_runs_out_is_one_sentence_with_the_settings_to_change(error: Exception) -> None:
    with pytest.raises(LhcnetError) as caught, memory_errors("stage1"):
        raise error
    text = str(caught.value)
    assert text.startswith("stage1: there is not enough memory: lower stage1.batch_size or network.input_size")
    assert "compute.precision: bfloat16" in text
    assert text.isprintable()


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(LhcnetError, match="network: there is not enough memory: lower"), memory_errors("network"):
        torch.empty(2**50)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors("stage1"):
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({}, 0),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": "oom 4\noom_kill 3\n"}, 3),
        ({"proc/self/cgroup": "0::/kubepods/x\n", "sys/fs/cgroup/memory.events": "oom_kill 2\n"}, 2),
        ({"proc/self/cgroup": "4:memory:/x\n0::/\n", "sys/fs/cgroup/memory/memory.oom_control": "oom_kill 1\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": "damaged\n"}, 0),
    ],
    ids=range(5),
)
def test_kills_for_lack_of_memory_are_counted(files: dict[str, str], kills: int, tmp_path: Path) -> None:
    assert oom_kills(tree(tmp_path, files)) == kills


@pytest.mark.parametrize(
    ("group", "limit", "anon", "exhausted"),
    [
        ("1", "1000", 990, True),
        ("1", "1000", 900, False),
        ("0", "1000", 990, False),
        ("1", "max", 990, False),
    ],
)
def test_memory_is_exhausted_before_the_kernel_kills_the_whole_container(
    group: str, limit: str, anon: int, exhausted: bool, tmp_path: Path
) -> None:
    files = {"memory.oom.group": group, "memory.max": limit, "memory.stat": f"anon {anon}\nfile 5000\nshmem 0\n"}
    root = tree(tmp_path, {"proc/self/cgroup": "0::/\n"} | {f"sys/fs/cgroup/{k}": v for k, v in files.items()})
    assert bool(memory_exhausted(root)) is exhausted


def test_emulated_bfloat16_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for precision, has in (("bfloat16", "bf16"), ("bfloat16", "avx512_bf16"), ("float32", "avx2")):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda has=has: {has: True})
        runtime.log_precision(runtime.Device(torch.device("cpu"), precision))
    assert not caplog.records
    runtime.log_precision(runtime.Device(torch.device("cpu"), "bfloat16"))
    assert "compute.precision: bfloat16 is emulated here" in caplog.text
