"""The server of the page on a socket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from fastapi import FastAPI


def listen(host: str, port: int) -> socket.socket:
    """An open socket; port 0 takes a free one. Raises LhcnetError if the address cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        raise LhcnetError(
            f"{host}:{port}: expected an address of this machine (--host) and a free port (--port): "
            f"{error.strerror or error}"
        ) from None


def serve(app: FastAPI, opened: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; then the picture that is computed gets five more seconds.

    Args:
        app: the page.
        opened: from `listen`; it is closed at the end.
        ready: is called with the address before the first answer.
    """
    import uvicorn

    host, port = opened.getsockname()[:2]
    # no access log: it would say who looked when
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=5, ws="none"
    )
    with opened:
        ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        uvicorn.Server(config).run(sockets=[opened])
