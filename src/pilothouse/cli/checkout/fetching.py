"""Whether git may fetch objects that were promised to a partial clone: not where the repository's own configuration
names programs that it would run for that (`core.sshCommand`, say). Its user's configuration may."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from functools import lru_cache

_PROGRAMS = re.compile(
    rb"core\.(sshcommand|gitproxy|alternaterefscommand)|credential\.(.*\.)?helper|protocol\.(.*\.)?allow"
    rb"|remote\..*\.(uploadpack|vcs)",
    re.DOTALL,
)
_OWN = (b"local", b"worktree")
_SECONDS = 60.0


@lru_cache(maxsize=1024)
def may_fetch(directory: str, environment: tuple[tuple[str, str], ...]) -> bool:
    """Whether no such program is named; False, too, where git cannot tell (before 2.26)."""
    try:
        done = subprocess.run(
            ["git", "-C", directory, "config", "--list", "-z", "--show-scope"],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    scopes_and_settings = done.stdout.split(b"\0")
    pairs = zip(scopes_and_settings[::2], scopes_and_settings[1::2], strict=False)
    return not done.returncode and not any(
        scope in _OWN and _PROGRAMS.fullmatch(setting.partition(b"\n")[0]) for scope, setting in pairs
    )


def without_programs(directory: str | os.PathLike[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for git in this directory: where it may not fetch, it can use no protocol."""
    if may_fetch(os.fspath(directory), tuple(sorted(environment.items()))):
        return dict(environment)
    return {**environment, "GIT_ALLOW_PROTOCOL": "none"}
