"""The user that steps run as."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

DEFAULT_SHELL = "/bin/sh"


class UnknownUser(Exception):
    """The user `run_as` does not exist on this machine."""

    code = "RUN_AS_UNKNOWN"


@dataclass(frozen=True, slots=True)
class StepUser:
    """The user that steps run as. `switched`: it is not the agent's own user."""

    name: str
    home: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    switched: bool = False
    shell: str = DEFAULT_SHELL

    @classmethod
    def find(cls, run_as: str | None) -> StepUser:
        """The user with name or number `run_as` if the agent may switch users, otherwise the agent's own."""
        if run_as is None or os.geteuid() != 0:
            return cls._own()
        try:
            entry = pwd.getpwuid(int(run_as)) if run_as.isdigit() else pwd.getpwnam(run_as)
        except KeyError:
            raise UnknownUser(f"no user {run_as} on this machine to run steps as") from None
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        shell = entry.pw_shell or DEFAULT_SHELL
        return cls(
            entry.pw_name, entry.pw_dir, entry.pw_uid, entry.pw_gid, groups, switched=True, shell=shell
        )

    @classmethod
    def _own(cls) -> StepUser:
        uid, gid = os.geteuid(), os.getegid()
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:  # usual in containers
            return cls(str(uid), os.environ.get("HOME", "/"), uid, gid)
        return cls(entry.pw_name, entry.pw_dir, uid, gid)

    @property
    def owner(self) -> tuple[int, int] | None:
        """Owner (uid, gid) of files that steps read; None if steps run as the agent's user."""
        return (self.uid, self.gid) if self.switched else None
