"""A web server on a real socket whose answers a test writes down."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """One answer; `length`: the Content-Length if it is not that of the body, None: there is none."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = -1
    before: Callable[[], object] = lambda: None


@dataclass
class Web:
    """Answers by path (without the query); of several the first is given first, the last for ever."""

    url: str
    port: int
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def put(self, path: str, *answers: Answer) -> str:
        self.answers[path] = list(answers)
        return self.url + path

    def answer(self, path: str, headers: dict[str, str]) -> Answer:
        self.seen.append((path, headers))
        waiting = self.answers.get(path.partition("?")[0], [Answer(status=404)])
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


@contextmanager
def serve(certificate: Path | None = None) -> Iterator[Web]:
    """A running server, with TLS if there is a certificate (PEM with its key)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = web.answer(self.path, {name.lower(): value for name, value in self.headers.items()})
            answer.before()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.length is not None:
                self.send_header("Content-Length", str(len(answer.body) if answer.length < 0 else answer.length))
            self.end_headers()
            with suppress(ConnectionError):  # the client refused it
                self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        port = server.server_address[1]
        web = Web(f"{'https' if certificate else 'http'}://{'localhost' if certificate else '127.0.0.1'}:{port}", port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield web
        finally:
            server.shutdown()
