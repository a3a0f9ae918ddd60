"""The URL of a remote: without credentials, and as the name of a repository. Pure."""

from __future__ import annotations

import re

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)")
_SCP = re.compile(r"(?:(?P<user>[^/:@]+)@)?(?P<host>\[[^\]/]*\]|[^/:@]+):(?P<path>[^?#]*)")
_MAX = 1000  # a key has at most 1 KiB


def without_credentials(url: str) -> str:
    """The URL without password, query and fragment; a user is kept for ssh alone, where it is no secret.

    Empty where the URL cannot be understood, or runs a program.
    """
    if (
        "::" in url.split("/", 1)[0]
        or len(url.encode("utf-8", "surrogateescape")) > _MAX
        or not url.isprintable()
    ):
        return ""
    if match := _URL.match(url):
        user, at, host = match["authority"].rpartition("@")
        name = user.partition(":")[0] + at if match["scheme"].lower() in ("ssh", "git+ssh", "ssh+git") else ""
        return f"{match['scheme']}://{name}{host}{match['path']}"
    if match := _SCP.match(url):
        user = f"{match['user']}@" if match["user"] else ""
        return f"{user}{match['host']}:{match['path']}"
    return "" if "@" in url and ":" in url.partition("@")[0] else url


def key_of(origin: str) -> str:
    """The name of the repository in object caches; ``origin`` as :func:`without_credentials` gives it."""
    if match := _URL.match(origin):
        scheme, host = match["scheme"].lower(), match["authority"].rpartition("@")[2].lower()
        return f"{scheme}://{host}{_trimmed(match['path'])}"
    if match := _SCP.match(origin):
        return f"{match['host'].lower()}:{_trimmed(match['path'])}"
    return _trimmed(origin)


def last_segment(origin: str) -> str:
    """The last part of the path, without ``.git``; may be empty."""
    return re.split(r"[/:]", _trimmed(origin))[-1]


def _trimmed(path: str) -> str:
    return path.rstrip("/").removesuffix(".git").rstrip("/")
