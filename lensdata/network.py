"""Connections that leave the machine: which hosts may be asked, and which never are (docs/security.md).

Addresses come from configurations and file lists, and servers may redirect. A request to the address at which a cloud hands
out a machine's credentials (169.254.169.254 and its kin), by name, number or redirect, would put them into a file; so
every connection is checked where it is made, after the name was resolved.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from lensdata.errors import InputError

ALLOWED_HOSTS = "LENSDATA_ALLOWED_HOSTS"
# By IPv4 most clouds hand credentials out at link-local numbers; these are the others, and those by IPv6.
METADATA = tuple(
    ipaddress.ip_network(text)
    for text in (
        "fd00:ec2::/32",  # AWS
        "fd20:ce::254/128",  # Google Cloud
        "168.63.129.16/32",  # Azure
        "100.100.100.200/32",  # Alibaba Cloud
        "192.0.0.192/32",  # Oracle Cloud
    )
)
# Gateways that speak IPv4 for an IPv6 number, which ends in the one they ask (RFC 6052).
NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


class ForbiddenHost(InputError):
    """A host that must not be asked."""


def require_allowed(host: str) -> None:
    """Refuse hosts that the operator's list, if there is one, does not name.

    ``LENSDATA_ALLOWED_HOSTS`` holds names with commas between them; ``.legacysurvey.org`` means every name below it. Unset or
    empty, every host may be asked but those of `require_public`.

    Raises
    ------
    ForbiddenHost
        The list does not name it.
    """
    allowed = [name.strip().lower() for name in os.environ.get(ALLOWED_HOSTS, "").split(",") if name.strip()]
    name = host.lower().strip("[]").rstrip(".")
    if allowed and not any(name == entry or (entry.startswith(".") and name.endswith(entry)) for entry in allowed):
        raise ForbiddenHost(f"{host} is not among the hosts that {ALLOWED_HOSTS} allows ({', '.join(allowed)}).")


def require_public(host: str, address: str) -> None:
    """Refuse addresses at which machines get their credentials.

    Raises
    ------
    ForbiddenHost
        ``address``, which ``host`` stands for, is link-local or a metadata service, as it is or wrapped into IPv6.
    """
    number = _asked(ipaddress.ip_address(address.partition("%")[0]))
    if number.is_link_local or any(number in network for network in METADATA if number.version == network.version):
        raise ForbiddenHost(f"{host} is {number}, an address at which clouds keep credentials: never asked.")


def _asked(number: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The number that is asked in the end: that of IPv4 where one of IPv6 only wraps it."""
    if isinstance(number, ipaddress.IPv4Address):
        return number
    if any(number in network for network in NAT64):
        return ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
    return number.ipv4_mapped or number.sixtofour or number


class _Guarded:
    """Checks the name before a connection, and the number once it stands: a name may mean another number each time."""

    host: str

    def _new_conn(self) -> socket.socket:
        require_allowed(self.host)
        made: socket.socket = super()._new_conn()  # type: ignore[misc]
        try:
            require_public(self.host, made.getpeername()[0])
        except BaseException:
            made.close()
            raise
        return made


class _Http(_Guarded, HTTPConnection):
    pass


class _Https(_Guarded, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


def pool_manager(**settings: Any) -> urllib3.PoolManager:
    """urllib3's PoolManager, whose connections raise `ForbiddenHost` instead of going where they must not."""
    manager = urllib3.PoolManager(**settings)
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return manager
