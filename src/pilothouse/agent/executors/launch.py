"""Prepares the start of a step's shell: command line, directory, environment and user.

The script of a step may contain secrets, so it is passed as a file: arguments are visible to all users.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilothouse.agent.executors import environment
from pilothouse.agent.executors.base import StepTask
from pilothouse.agent.executors.files import StepFolders
from pilothouse.agent.executors.users import StepUser
from pilothouse.agent.reaping.supervisor import Request

DEFAULT_SHELL = ("sh", "-e")

# `python -c` imports modules from the current directory, `python FILE` from the file's directory. Steps should
# import modules of the workspace, so this reads and executes the file given as argument.
_PYTHON = re.compile(r"(python|pypy)[0-9.]*")
_PYTHON_COMMAND = (
    "import sys; del sys.argv[0]; exec(compile(open(sys.argv[0], 'rb').read(), sys.argv[0], 'exec'))"
)


class StepRefused(Exception):
    """The step cannot be started because its definition is invalid."""

    code = "STEP_REFUSED"

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Launch:
    """A prepared start. `env_file`: the path in `PILOT_ENV`."""

    request: Request
    env_file: Path


class Launcher:
    """Prepares steps. `inherited`: the part of the agent's environment that they get."""

    def __init__(self, user: StepUser, folders: StepFolders, inherited: Mapping[str, str]) -> None:
        self._user, self._folders = user, folders
        self._inherited = environment.of_the_user(inherited, user)

    @contextlib.contextmanager
    def prepare(self, task: StepTask, job_env: Mapping[str, str]) -> Iterator[Launch]:
        """Prepare the start of a step; its files exist while in the context.

        `job_env`: variables that earlier steps wrote to `PILOT_ENV`. Raises StepRefused, OSError.
        """
        text = _text(task)
        shell = _shell(task.args.get("shell"))
        directory = _directory(task)
        user = self._user
        become = [user.uid, user.gid, user.groups] if user.switched else []
        with self._folders.use(text) as files:
            ours = environment.of_the_step(task, files.env)
            everything = _checked({**self._inherited, **ours, **job_env, **task.env})
            argv = _argv(task, shell, files.script)
            yield Launch(Request(argv, str(directory), everything, become), files.env)


def _argv(task: StepTask, shell: list[str], script: Path) -> list[str]:
    if task.full_action == "shell/command" and _PYTHON.fullmatch(Path(shell[0]).name):
        return [*shell, "-c", _PYTHON_COMMAND, str(script)]
    return [*shell, str(script)]


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


def _checked(variables: Mapping[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise StepRefused(f"{name!r} cannot be an environment variable: bad name, or NUL in its value")
    return dict(variables)
