"""How git proves who it is to a forge: a token over https, a key over ssh."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pilothouse.pipelines.errors import RepositoryInvalid
from pilothouse.pipelines.git.address import RepositoryAddress

TOKEN_USER = "x-access-token"  # noqa: S105 (a user name)
"""The user name that is sent with a token that has none; forges ignore it."""
CONNECT, ALIVE = 15, 20
"""Seconds in which an ssh connection must be open, and after which a silent one is probed (three times)."""


@dataclass(frozen=True, slots=True)
class SshSettings:
    """``known_hosts``: the file with the host keys that are trusted; a host without one is refused."""

    known_hosts: Path


@contextlib.contextmanager
def environment(
    address: RepositoryAddress, secret: str, ssh: SshSettings, scratch: Path
) -> Iterator[Mapping[str, str]]:
    """The variables with which git may use the network, for one address only.

    ``secret``: empty, a token or ``user:token`` for https, a private key for ssh. A token is passed in the
    environment, a key in a file of ``scratch`` that only this user can read, for as long as the block lasts.
    Redirects are not followed with a token: it would be sent to the other host. Raises :class:`RepositoryInvalid`.
    """
    given = {"GIT_ALLOW_PROTOCOL": address.scheme, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "/bin/false"}
    given |= {name: os.environ[name] for name in _PROXIES if name in os.environ}
    if address.scheme == "ssh":
        with _key_file(secret, scratch) as key:
            yield given | {"GIT_SSH_COMMAND": _ssh(ssh, key), "GIT_SSH_VARIANT": "ssh"}
    elif secret and address.scheme in ("https", "http"):
        if secret.lstrip().startswith("-----BEGIN"):
            raise RepositoryInvalid(
                "the secret of the repository is a private key, but its address is not ssh"
            )
        header = f"Authorization: Basic {_basic(secret)}"
        yield given | _config({"http.extraHeader": header, "http.followRedirects": "false"})
    else:
        yield given


_PROXIES = ("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY")


def _basic(secret: str) -> str:
    user, colon, token = secret.strip().rpartition(":")
    pair = f"{user if colon else TOKEN_USER}:{token}"
    if re.search(r"[\x00-\x1f\x7f]", pair):
        raise RepositoryInvalid("the secret of the repository is neither a token nor user:token")
    return base64.b64encode(pair.encode()).decode()


def _config(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings of git by environment variables, which other users cannot read, unlike arguments."""
    pairs = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        pairs |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return pairs


@contextlib.contextmanager
def _key_file(secret: str, scratch: Path) -> Iterator[str]:
    if not secret:
        yield ""
        return
    if not secret.lstrip().startswith("-----BEGIN"):
        raise RepositoryInvalid("the secret of an ssh repository is a private key (OpenSSH or PEM)")
    with tempfile.NamedTemporaryFile("w", dir=scratch, prefix="key-") as file:  # mode 0600
        file.write(secret.strip() + "\n")
        file.flush()
        yield file.name


def _ssh(ssh: SshSettings, key: str) -> str:
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f'"{ssh.known_hosts}"',
        "GlobalKnownHostsFile": "/dev/null",
        "UpdateHostKeys": "no",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "IdentityFile": f'"{key}"' if key else "none",
        "PasswordAuthentication": "no",
        "ForwardAgent": "no",
        "ClearAllForwardings": "yes",
        "PermitLocalCommand": "no",
        "ConnectTimeout": str(CONNECT),
        "ServerAliveInterval": str(ALIVE),
    }
    words = ["ssh", "-F", "/dev/null"]
    for name, value in options.items():
        words += ["-o", f"'{name}={value}'"]
    return " ".join(words)
