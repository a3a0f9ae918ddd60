"""What is needed to start a step's shell: the command line, the directory, the environment, the user."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilothouse.agent.executors.base import StepTask
from pilothouse.agent.guard import COOKIE_VARIABLE

DEFAULT_SHELL = ("sh", "-e")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_INLINE_COMMAND = 100_000  # bytes; Linux takes 128 KiB for one argument

# What a step gets of the agent's own environment; above all not its PILOT_* settings and tokens.
INHERITED = (
    *("PATH", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)


class StepRefused(Exception):
    """The step cannot be started as it is written."""

    code = "STEP_REFUSED"

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UnknownUser(Exception):
    """`run_as` names nobody on this machine."""

    code = "RUN_AS_UNKNOWN"


@dataclass(frozen=True, slots=True)
class StepUser:
    """Whom steps run as. `switched`: another user than the agent's own."""

    name: str
    home: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    switched: bool = False

    @classmethod
    def find(cls, run_as: str | None) -> StepUser:
        """The user named (or numbered) `run_as` where the agent may switch, else the agent's own."""
        if run_as is None or os.geteuid() != 0:
            return cls._own()
        try:
            entry = pwd.getpwuid(int(run_as)) if run_as.isdigit() else pwd.getpwnam(run_as)
        except KeyError:
            raise UnknownUser(f"no user {run_as} on this machine to run steps as") from None
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        return cls(entry.pw_name, entry.pw_dir, entry.pw_uid, entry.pw_gid, groups, switched=True)

    @classmethod
    def _own(cls) -> StepUser:
        uid, gid = os.geteuid(), os.getegid()
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:  # usual in containers
            return cls(str(uid), os.environ.get("HOME", "/"), uid, gid)
        return cls(entry.pw_name, entry.pw_dir, uid, gid)


@dataclass(frozen=True, slots=True)
class Launch:
    argv: list[str]
    directory: Path
    environment: dict[str, str]


@contextlib.contextmanager
def prepare(task: StepTask, user: StepUser, cookie: str) -> Iterator[Launch]:
    """All that is needed to start the step; a script is kept in a file while in the context.

    Raises StepRefused.
    """
    text = _text(task)
    shell = _shell(task.args.get("shell"))
    directory = _directory(task)
    environment = _environment(task, user, cookie)
    if task.full_action == "shell/command" and len(text.encode()) <= MAX_INLINE_COMMAND:
        yield Launch([*shell, "-c", text], directory, environment)
        return
    with tempfile.NamedTemporaryFile("w", prefix="pilot-step-", encoding="utf-8") as script:
        script.write(text)
        script.flush()
        if user.switched:
            os.fchown(script.fileno(), user.uid, user.gid)
        yield Launch([*shell, script.name], directory, environment)


def _text(task: StepTask) -> str:
    key = {"shell/command": "command", "shell/script": "script"}.get(task.full_action)
    if key is None:
        raise StepRefused(f"the process executor has no action {task.full_action}")
    text = task.args.get(key)
    if not isinstance(text, str) or not text.strip():
        raise StepRefused(f"{task.full_action} needs args.{key}")
    if "\0" in text:
        raise StepRefused(f"args.{key} contains a NUL character")
    return text


def _shell(value: Any) -> list[str]:
    if value is None:
        return list(DEFAULT_SHELL)
    try:
        words = shlex.split(value) if isinstance(value, str) else list(value)
    except (ValueError, TypeError):
        words = []
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise StepRefused("args.shell must be a command line, or a list of its words")
    return words


def _directory(task: StepTask) -> Path:
    wanted = task.args.get("workingDirectory", task.args.get("working_directory", "."))
    if not isinstance(wanted, str) or "\0" in wanted:
        raise StepRefused("args.workingDirectory must be a path")
    workspace = task.workspace.resolve()
    directory = (workspace / wanted).resolve()
    if not directory.is_relative_to(workspace):
        raise StepRefused(f"working directory {wanted} is outside the workspace")
    if not directory.is_dir():
        raise StepRefused(f"working directory {wanted} does not exist")
    return directory


def _environment(task: StepTask, user: StepUser, cookie: str) -> dict[str, str]:
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    environment.setdefault("PATH", DEFAULT_PATH)
    environment.setdefault("LANG", "C.UTF-8")
    environment |= {"HOME": user.home, "USER": user.name, "LOGNAME": user.name}
    environment |= _checked(task.env) | _checked(task.secrets)
    return environment | {
        "CI": "true",
        "PILOT_RUN_ID": task.run_id,
        "PILOT_JOB": task.job_name,
        "PILOT_STEP": task.step_name,
        "PILOT_STEP_RUN_ID": task.step_run_id,
        "PILOT_WORKSPACE": str(task.workspace.resolve()),
        "GIT_CEILING_DIRECTORIES": str(task.workspace.resolve().parent),  # git looks no further up
        COOKIE_VARIABLE: cookie,
    }


def _checked(variables: Mapping[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise StepRefused(f"{name!r} cannot be an environment variable: bad name, or NUL in its value")
    return dict(variables)
