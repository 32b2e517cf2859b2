"""Commands without their start-up: a process that has loaded the libraries forks one process for each command.

A pipeline under DVC or Kubeflow's local runner is thirty commands, each of which loads torch, MLflow, kfp or DVC for
seconds and computes for a fraction of one. `programs` makes a folder with the programs `dvc`, `lhcnet` and `python`
(for `python -m MODULE`). They pass arguments, folder, environment and open files to the process that forks, and exit
with the status of the fork. A fork shares loaded modules with the others, and nothing else.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from lhcnet.tracking.store import mlflow_errors

ROOT = Path(__file__).parents[2]
LOADED = (
    "dvc.cli.parser",
    "dvc.repo.reproduce",
    "kfp.kubernetes",
    "kfp.local",
    "lhcnet.analysis.run",
    "lhcnet.cli",
    "lhcnet.report.analysis_plots",
    "lhcnet.report.plots",
    "lhcnet.report.terminal",
    "lhcnet.steps.fit_model",
    "lhcnet.tracking.delivery",
    "mlflow.pyfunc",
    "sklearn.metrics",
    "scipy.stats",
    "torch._dynamo",  # torch.optim loads it with the first optimiser
)
# These are new processes: a training watches the process that started it, DVC's worker outlives the command.
ALONE = (["-m", "lhcnet.steps.child"], ["exp", "queue-worker"])
CLIENT = """#!{python} -IS
import json, os, socket, sys
arguments = sys.argv[1:]
new = {program!r} == "python" and arguments[:1] != ["-m"]
if new or arguments[:2] in {alone}:
    module = [] if {program!r} == "python" else ["-m", {program!r}]
    os.execv({python!r}, [{python!r}, *module, *arguments])
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [b"."], [0, 1, 2])
connection.sendall(json.dumps([{program!r}, arguments, os.getcwd(), dict(os.environ)]).encode() + b"\\n")
sys.exit(int(connection.makefile().readline() or 1))
"""


@contextmanager
def programs(folder: Path) -> Iterator[Path]:
    """Fill `folder` with the programs, for the beginning of PATH. They work until the block ends.

    Where a process cannot wait for a file and a process at once (macOS), the folder stays empty.
    """
    if not hasattr(os, "pidfd_open"):
        yield folder
        return
    address = str(folder / "socket")
    for program in ("dvc", "lhcnet", "python"):
        file = folder / program
        file.write_text(CLIENT.format(python=sys.executable, program=program, address=address, alone=ALONE))
        file.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-c", f"from support.preloaded import serve; serve({address!r}, {str(folder / 'python')!r})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"MLFLOW_DISABLE_TELEMETRY": "true"}  # its thread would not survive a fork
        | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "src", ROOT / "tests")))},
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        try:
            yield folder
        finally:
            server.kill()


def serve(address: str, python: str) -> None:
    """Load the libraries, and fork for each request at the socket `address` until stdin ends.

    Args:
        address: path of the socket.
        python: what the forks start as Python.
    """
    with mlflow_errors(""):  # sets what MLflow reads when it is imported
        for module in LOADED:
            importlib.import_module(module)
    assert threading.active_count() == 1, f"a fork would lack {threading.enumerate()}"
    assert not logging.getLogger().handlers, "a new process has none"
    sys.executable = python
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    os.write(1, b"ready\n")
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    while listening in select.select([listening, 0], [], [])[0]:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(connection)
        connection.close()


def answer(connection: socket.socket) -> NoReturn:
    """Run one request in a fork of this process, and send its exit status. It is killed if its client ends."""
    _, files, *_ = socket.recv_fds(connection, 1, 3)
    program, arguments, folder, environment = json.loads(connection.makefile("rb").readline())
    running = os.fork()
    if running == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        run(program, arguments)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(running)
    if ended not in select.select([connection, ended], [], [])[0]:
        os.kill(running, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(running, 0)[1])
    with suppress(OSError):
        connection.sendall(f"{status if status >= 0 else 128 - status}\n".encode())
    os._exit(0)


def run(program: str, arguments: list[str]) -> NoReturn:
    """Do what the program does in a new process."""
    if program == "python":
        _, module, *rest = arguments
        sys.argv, sys.orig_argv = [module, *rest], [sys.executable, *arguments]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit(0)
    file = str(Path(sys.executable).with_name(program))
    sys.argv, sys.orig_argv = [file, *arguments], [sys.executable, file, *arguments]
    main: Any = importlib.import_module(f"{program}.cli").main
    sys.exit(main())
