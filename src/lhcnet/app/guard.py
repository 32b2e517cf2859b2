"""Who may talk to the page: the pages that it serves itself, under names of this machine.

A server on 127.0.0.1 is reached by every web site that is open in the same browser. Two checks keep them out: the name
in `Host` (against DNS rebinding), and the origin of whatever computes (against requests from other pages).
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import JSONResponse

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Next = Callable[[Request], Awaitable[Response]]


def guard(host: str) -> Callable[[Request, Next], Awaitable[Response]]:
    """A middleware that refuses requests of other sites and adds the headers to every answer.

    Args:
        host: the name or address that the server listens on. It is accepted in `Host`, and so are IP addresses,
            `localhost` and this machine's own name.
    """
    names = {host.lower(), "localhost", socket.gethostname().lower(), socket.getfqdn().lower()}

    async def middleware(request: Request, proceed: Next) -> Response:
        if why := _refusal(request, names):
            response: Response = JSONResponse({"error": why}, status_code=403)
        else:
            response = await proceed(request)
        response.headers.update(HEADERS)
        return response

    return middleware


def _refusal(request: Request, names: set[str]) -> str:
    """Why a request is refused; empty if it is not."""
    host = request.headers.get("host", "")
    if not _is_own(host, names):
        return f"Host {host!r}: expected an IP address, or one of {', '.join(sorted(names))}"
    if request.method in ("GET", "HEAD"):
        return ""
    origin = request.headers.get("origin")
    if origin is None:  # no browser, or one that says it in another header
        same = request.headers.get("sec-fetch-site", "none") in ("same-origin", "none")
    else:
        same = urlsplit(origin).netloc.lower() == host.lower()
    return "" if same else "the request comes from another web site, expected one from the page itself"


def _is_own(host: str, names: set[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in names:
        return True
    try:
        ip_address(name)  # an address cannot be rebound to another one
    except ValueError:
        return False
    return True
