"""The proxy for a server according to the environment; for clients and agents.

``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy`` as curl, Go and Python read them, in lower or
upper
case (lower case has precedence). Addresses of this machine are never reached through a proxy.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_NUMERIC = re.compile(r"[0-9a-fx.]+")


class BadProxy(ValueError):
    """The environment configures a proxy that cannot be used."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. ``url`` can contain credentials; ``shown`` is for messages. ``variable`` configured it."""

    url: str = field(repr=False)
    shown: str
    variable: str

    def __str__(self) -> str:
        return f"the proxy {self.shown} (from {self.variable})"


def is_loopback(host: str) -> bool:
    """Whether the host is this machine: loopback addresses, ``localhost`` and its subdomains."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name.partition("%")[0])
    if address is None:
        return False
    plain = getattr(address, "ipv4_mapped", None) or address
    return bool(plain.is_loopback or plain.is_unspecified)  # connecting to 0.0.0.0 reaches this machine, too


def proxy_for(url: str, environ: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy for this ``http(s)`` URL, if any. Raises :class:`BadProxy`."""
    given = os.environ if environ is None else environ
    parts = urlsplit(url)
    names = (f"{parts.scheme}_proxy", "all_proxy")
    return _chosen(parts.hostname or "", parts.port, names, ("no_proxy",), given)


def grpc_proxy_for(target: str, environ: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy that gRPC uses for ``HOST:PORT``: it reads other variables, and ignores unusable ones."""
    given = os.environ if environ is None else environ
    lower = {name: value for name, value in given.items() if name == name.lower()}
    host, _, port = target.rpartition(":")
    names = ("grpc_proxy", "https_proxy", "http_proxy")
    try:
        found = _chosen(
            host, int(port) if port.isdigit() else None, names, ("no_grpc_proxy", "no_proxy"), lower
        )
    except BadProxy:
        return None
    return found if found and found.url.startswith("http://") else None


def _chosen(
    host: str,
    port: int | None,
    names: tuple[str, ...],
    exceptions: tuple[str, ...],
    environ: Mapping[str, str],
) -> Proxy | None:
    if is_loopback(host):
        return None
    variable, value = _first(names, environ)
    if not value or _excepted(host, port, _first(exceptions, environ)[1]):
        return None
    return _parsed(value, variable)


def _first(names: tuple[str, ...], environ: Mapping[str, str]) -> tuple[str, str]:
    """The first non-empty variable and its value."""
    for name in names:
        if name in environ:
            found = name, environ[name].strip()
        else:
            # In CGI programs HTTP_PROXY is the request header "Proxy".
            upper = "" if name == "http_proxy" and "REQUEST_METHOD" in environ else name.upper()
            found = upper, environ.get(upper, "").strip()
        if found[1] or name in environ:
            return found
    return "", ""


def _parsed(value: str, variable: str) -> Proxy:
    whole = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(whole)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise BadProxy(f"{variable} does not hold the address of a proxy") from None
    if not host or not value.isprintable():
        raise BadProxy(f"{variable} does not hold the address of a proxy")
    host = f"[{host}]" if ":" in host else host
    shown = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
    if parts.scheme not in ("http", "https"):
        raise BadProxy(
            f"the proxy {shown} (from {variable}) cannot be used: only http:// and https:// proxies can; "
            "set http_proxy and https_proxy, or no_proxy"
        )
    return Proxy(whole, shown, variable)


def _excepted(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether ``no_proxy`` contains this host: by name, domain, address or network, with or without port."""
    name = host.strip("[]").rstrip(".").lower()
    address = _address(name)
    for entry in re.split(r"[,\s]+", no_proxy.lower()):
        if entry == "*" or (address is not None and _covers(entry, address)):
            return True
        wanted, _, number = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
        wanted = wanted.removeprefix("*").strip(".[]")
        if number and number != str(port):
            continue
        if wanted and (name == wanted or name.endswith(f".{wanted}")):
            return True
    return False


def _covers(entry: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    if not text or not text[0].isdigit() or not _NUMERIC.fullmatch(text):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))  # 127.1 is also an address
    except OSError:
        return None
