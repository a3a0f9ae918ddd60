"""Addresses of git repositories, as users write them; pure.

An address is given to git as an argument, and git gives its host to ssh: nothing in it may look like an option or be
a command.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from pilothouse.pipelines.errors import RepositoryInvalid

SCHEMES = frozenset({"https", "ssh"})
"""Allowed everywhere; an operator may add some of :data:`MORE_SCHEMES` (``PILOT_GIT_ALLOW``)."""
MORE_SCHEMES = frozenset({"http", "git", "file"})
MAX_ADDRESS = 1000
"""Characters of an address."""

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_HOST = rf"(?:{_NAME}|\[[0-9A-Fa-f:.]+\])"
_URL = re.compile(
    rf"(?P<scheme>[A-Za-z]+)://(?:(?P<user>[^@/]*)@)?(?P<host>{_HOST})(?P<port>:[0-9]{{1,5}})?(?P<path>/.+)"
)
_FILE = re.compile(r"file://(?P<path>/.+)")
_SCP = re.compile(rf"(?:(?P<user>{_NAME})@)?(?P<host>{_HOST}):(?P<path>[^-/:][^:]*|/.+)")
_PATH = re.compile(r"[A-Za-z0-9_./~+@%=,:-]+")


@dataclass(frozen=True, slots=True)
class RepositoryAddress:
    """``url``: as git gets it, without credentials; ``key``: the name of the repository in object caches, the same
    for every spelling (docs/checkout.md)."""

    url: str
    scheme: str
    key: str


def read_address(text: str, more: Collection[str] = ()) -> RepositoryAddress:
    """``https://host/path``, ``ssh://[user@]host[:port]/path`` or ``[user@]host:path``. Raises
    :class:`RepositoryInvalid`.

    ``more``: schemes that are allowed beside https and ssh.
    """
    if len(text) > MAX_ADDRESS or not text.isascii() or not text.isprintable() or " " in text:
        raise RepositoryInvalid(
            f"a repository's address has at most {MAX_ADDRESS} printable ASCII characters"
        )
    match = (
        _FILE.fullmatch(text) or _URL.fullmatch(text) or (_SCP.fullmatch(text) if "://" not in text else None)
    )
    if match is None:
        raise RepositoryInvalid(
            "a repository's address is https://host/path, ssh://user@host/path or user@host:path"
        )
    parts = match.groupdict()
    scheme = (parts.get("scheme") or ("file" if match.re is _FILE else "ssh")).lower()
    if scheme not in SCHEMES | (MORE_SCHEMES & set(more)):
        raise RepositoryInvalid(f"{scheme} repositories are not allowed here (PILOT_GIT_ALLOW)")
    path = parts["path"]
    if not _PATH.fullmatch(path) or ".." in path.split("/"):
        raise RepositoryInvalid("the path of a repository's address has characters that are not allowed")
    user, port = parts.get("user") or "", parts.get("port") or ""
    if user and (scheme != "ssh" or not re.fullmatch(_NAME, user)):
        raise RepositoryInvalid("a repository's address has no user or password: set repoSecret")
    host = (parts.get("host") or "").lower()
    trimmed = path.rstrip("/").removesuffix(".git").rstrip("/")
    if match.re is _SCP:
        return RepositoryAddress(text, scheme, f"{host}:{trimmed}")
    if scheme == "file":
        return RepositoryAddress(text, scheme, f"file://{trimmed}")
    name = f"{user}@" if user else ""
    return RepositoryAddress(
        f"{scheme}://{name}{host}{port}{path}", scheme, f"{scheme}://{host}{port}{trimmed}"
    )


def check_branch(name: str) -> str:
    """The branch. Raises :class:`RepositoryInvalid` if git would not accept it or take it for an option."""
    if not good_branch(name):
        raise RepositoryInvalid(f"{name[:80]!r} is not a branch name")
    return name


def good_branch(name: str) -> bool:
    """Whether it is a branch name, as ``git check-ref-format --branch`` says, of plain characters only."""
    parts = name.split("/")
    return (
        0 < len(name) <= 250
        and name.isprintable()
        and not re.search(r"[ ~^:?*\[\\]|\.\.|@\{", name)
        and not name.startswith("-")
        and not name.endswith((".", "/"))
        and name not in ("@", "HEAD")
        and all(part and not part.startswith(".") and not part.endswith(".lock") for part in parts)
    )


def check_path(path: str) -> str:
    """The path of a file in a repository. Raises :class:`RepositoryInvalid`."""
    parts = path.split("/")
    if (
        not 0 < len(path) <= 500
        or not path.isprintable()
        or any(part in ("", ".", "..") or part.lower() == ".git" for part in parts)
    ):
        raise RepositoryInvalid(
            f"{path[:80]!r} is not the path of a file in a repository, such as ci/pilot.yaml"
        )
    return path
