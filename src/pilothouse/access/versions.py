"""Which releases of our own agents and clients this server serves: its own, the one before, and newer ones; pure.

Ours name themselves in ``User-Agent`` (HTTP, gRPC) as ``pilot/0.1.0``. Whoever does not is never refused: the public
contracts hold for all, and what third parties number is not our releases.
"""

from __future__ import annotations

import re

from pilothouse.access.errors import Refusal

_OURS = re.compile(
    r"(pilot|pilothouse|pilothouse-agent)/([0-9]{1,6})\.([0-9]{1,6})(?:\.[0-9A-Za-z.+-]{1,32})?(?= |$)"
)
_RELEASE = re.compile(r"([0-9]+)\.([0-9]+)")

Release = tuple[int, int]
"""Major and minor number; patches of one release are compatible."""


class ClientTooOld(Refusal):
    """An agent or client of ours that is older than the release before this server's."""

    code = "CLIENT_TOO_OLD"

    def __init__(self, client: str, server: str, oldest: Release) -> None:
        upgrade = f"pip install --upgrade pilothouse=={server}"
        super().__init__(
            f"{client.replace('/', ' ')} is too old for this server ({server}), which serves "
            f"{oldest[0]}.{oldest[1]} and newer; upgrade it: {upgrade}",
            details={"client": client, "server": server, "upgrade": upgrade},
        )


def check_client(user_agent: str, server: str) -> None:
    """Raise :class:`ClientTooOld` if this is a client of ours from before the release before the server's.

    ``server``: the server's version. Which release was the last before a new major number is not known here: the
    first release of a major number serves all those of the one before.
    """
    ours = _OURS.match(user_agent)
    if ours is None:
        return
    oldest = oldest_served(server)
    if (int(ours[2]), int(ours[3])) < oldest:
        raise ClientTooOld(ours[0], server, oldest)


def oldest_served(server: str) -> Release:
    """The oldest release that a server of this version serves; (0, 0) for versions that are not numbers."""
    release = _RELEASE.match(server)
    if release is None:
        return 0, 0
    major, minor = int(release[1]), int(release[2])
    return (major, minor - 1) if minor else (max(major - 1, 0), 0)
