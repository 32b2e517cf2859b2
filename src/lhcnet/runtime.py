"""Settings of the process: device, precision, threads, garbage collection, signals. Importing it loads no torch."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from lhcnet.cgroup import cpu_limit
from lhcnet.errors import LhcnetError, NoMemoryError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lhcnet.config import Compute

log = logging.getLogger("lhcnet")
_POLL = 0.5  # seconds
# names in torch.cpu.get_capabilities of instructions that multiply bfloat16 numbers
_BFLOAT16_X86, _BFLOAT16_ARM = ("amx_bf16", "avx512_bf16"), ("bf16", "sve_bf16")


@dataclass(frozen=True)
class Device:
    """A torch device and the precision of its forward passes. Weights, losses and reductions stay float32."""

    torch: torch.device
    precision: str

    def move(self, network: nn.Module) -> None:
        """Move a network to the device, in place. Convolution weights get the memory format of the activations."""
        from torch import nn

        from lhcnet.models.memory_format import memory_format

        convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
        network.to(self.torch).to(memory_format=memory_format(*(module.out_channels for module in convolutions)))

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which forward passes run in `precision`."""
        import torch

        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.torch.type, dtype=torch.bfloat16)


def open_device(compute: Compute) -> Device:
    """Apply the settings `compute` to this process and return the device.

    Raises:
        LhcnetError: a GPU is asked for and torch finds none.
    """
    import torch

    if compute.device == "cuda" and not torch.cuda.is_available():
        raise LhcnetError(
            "compute.device: cuda was asked for, but torch finds no CUDA GPU; expected a GPU, or `device: cpu`"
        )
    if compute.device == "cuda":  # no TF32, and always the same choice of algorithm
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    if compute.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it for deterministic algorithms
        torch.use_deterministic_algorithms(True)
    available = torch.get_num_threads()
    if (threads := compute.threads or min(available, cpu_limit() or available)) != available:
        torch.set_num_threads(threads)
    return Device(torch.device(compute.device), compute.precision)


def native_precision() -> str:
    """`bfloat16` if the processor multiplies such numbers with AMX or AVX-512, otherwise `float32`.

    On other processors that have bfloat16 (ARM), nobody has measured whether it pays.
    """
    import torch

    found = torch.cpu.get_capabilities()
    return "bfloat16" if any(found.get(name) for name in _BFLOAT16_X86) else "float32"


def log_precision(device: Device) -> None:
    """Warn of a bfloat16 that is only emulated, and say for a GPU whether float32 is computed as TF32."""
    import torch

    if device.torch.type == "cuda":
        tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        log.info("compute.precision: %s; TF32 is %s", device.precision, "on" if tf32 else "off")
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found = torch.cpu.get_capabilities()
        native = any(found.get(name) for name in (*_BFLOAT16_X86, *_BFLOAT16_ARM))
    if device.precision == "bfloat16" and not native:
        log.warning(
            "compute.precision: bfloat16 is emulated here, several times slower than float32; expected float32, or "
            "a processor that has bfloat16"
        )


@contextmanager
def memory_errors(section: str) -> Iterator[None]:
    """Report that memory ran out, on the CPU or the GPU, as one sentence with the settings to change.

    Args:
        section: section of the settings with the batch size, for example `stage1`; `network` where one is built.

    Raises:
        NoMemoryError: the block ran out of memory. Its status is 1, not the status for a retry: it would fail again.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        advice = f"lower {section}.batch_size or network.input_size, or set compute.precision: bfloat16"
        if section == "network":
            advice = "lower network.widths, network.head, or heads, d and kernel of the modules"
        raise NoMemoryError(
            f"{section}: there is not enough memory: {advice}{f' ({reason})' if reason else ''}"
        ) from None


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    known = ("can't allocate memory", "not enough memory", "out of memory", "could not create a memory")
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in text for words in known)


def tune_gc() -> None:
    """Garbage-collector settings for short-lived step processes: collect rarely, and not at exit.

    Importing torch and MLflow creates a million objects that live as long as the process. With Python's default
    threshold, scanning them takes a third of the time of a short step. The training loop itself frees its objects by
    reference counting.
    """
    gc.set_threshold(100_000)  # allocations; Python's default is 700
    atexit.register(gc.freeze)


class Terminated(SystemExit):
    """The process received SIGTERM or SIGHUP; the exit code is that of a shell, 128 + the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


def exit_on_sigterm() -> None:
    """From now on SIGTERM and SIGHUP end the process as an exception does, so that temporary copies are removed.

    A second signal is ignored, because the first is removing them; a third ends the process at once. A signal that the
    parent process has told this one to ignore (nohup) stays ignored. Training handles SIGTERM on its own: see
    `Checkpoint.handling_sigterm`.
    """
    received = 0

    def on_signal(number: int, _: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received == 1:
            log.warning("stopped by %s", signal.Signals(number).name)
            raise Terminated(number)
        if received > 2:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():  # Python delivers signals to this one only
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, on_signal)


def end_with_parent(number: signal.Signals, after: float = 0.0) -> None:
    """Send this process a signal when its parent process has ended, however it ended.

    Args:
        number: the signal.
        after: seconds that the process has for its last work.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL)
        time.sleep(after)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()
