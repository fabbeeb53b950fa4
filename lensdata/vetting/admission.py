"""Who may ask the local server: by its own name, with the token of the printed address, and to write, from its own page."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Set

from aiohttp import web

LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def admit(request: web.Request, hosts: Set[str], cookie: str, secret: str) -> None:
    """Refuse who calls by another name, does not have the token, or writes from another page.

    Parameters
    ----------
    hosts
        Names that a Host header may hold. A foreign page whose own name was made to lead here (DNS rebinding) sends that name.
    cookie, secret
        Name and value of the cookie that the first page sets; the first page itself takes the value as ``?token=``.

    Raises
    ------
    web.HTTPForbidden
        Says what to do.
    """
    host = _host(request.headers.get("Host", ""))
    if host not in hosts:
        raise web.HTTPForbidden(text=f"This server is not called {host!r}; open the address that lensdata vet printed.")
    given = request.cookies.get(cookie, "")
    if request.path == "/" and "token" in request.query:
        given = request.query["token"]
    if not hmac.compare_digest(given.encode(errors="surrogateescape"), secret.encode()):  # a header may hold any bytes
        raise web.HTTPForbidden(text="The token is missing or wrong; open the address that lensdata vet printed.")
    if request.method == "POST":
        origin = request.headers.get("Origin")
        own = not origin or origin.partition("://")[2] == request.headers["Host"]
        if request.content_type != "application/json" or not own:
            raise web.HTTPForbidden(text="Grades are taken as JSON from the page of this server alone.")


def is_loopback(listen: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return listen == "localhost" or ipaddress.ip_address(listen).is_loopback
    except ValueError:
        return False


def names_of(listen: str) -> set[str]:
    """The names in a Host header that mean a server listening on this address."""
    if is_loopback(listen):
        return {listen}
    own = {listen, socket.gethostname(), socket.getfqdn()}
    if is_any(listen):
        own |= {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)}
    return {name.lower() for name in own}


def _host(header: str) -> str:
    """The name in a Host header, without the port."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def is_any(listen: str) -> bool:
    """Whether an address stands for all addresses of this machine."""
    try:
        return ipaddress.ip_address(listen).is_unspecified
    except ValueError:
        return False
