"""A step's environment (decisions.md): the agent's environment, filtered, then standard variables, then the spec's.

Variables of the agent that steps do not get:

- its Python environment: `VIRTUAL_ENV` and similar, and the directory of its programs in `PATH`
- its settings: `PILOT_*`
- credentials: SSH and GPG agents, session buses, variables whose names look like credentials, and URLs with a
  password (except proxies, which steps may need for network access)
- variables of its parent process: git's variables in a hook, systemd's sockets, the shell's directory

`--pass-env NAME` overrides this for one variable.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pilothouse.agent.executors.base import StepTask
from pilothouse.agent.executors.users import StepUser

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OWN_PREFIX = "PILOT_"

_PYTHON = (
    "VIRTUAL_ENV",
    "VIRTUAL_ENV_PROMPT",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONEXECUTABLE",
    "__PYVENV_LAUNCHER__",
)
_TOOLS = ("PIPENV_ACTIVE", "POETRY_ACTIVE", "UV_RUN_RECURSION_DEPTH", "GRPC_ENABLE_FORK_SUPPORT")
_CONDA = ("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_PROMPT_MODIFIER", "CONDA_SHLVL")
_SYSTEMD = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
)
_SESSION = (
    "XAUTHORITY",
    "KRB5CCNAME",
    "DBUS_SESSION_BUS_ADDRESS",
    "GNOME_KEYRING_CONTROL",
    "KUBECONFIG",
    "NETRC",
)
_SHELL = ("PWD", "OLDPWD", "SHLVL", "_")
_TERMINAL = ("TMUX", "TMUX_PANE", "STY", "WINDOW")
"""Whose holder types into the terminal that the agent was started in."""

_NAMES = frozenset((*_PYTHON, *_TOOLS, *_SYSTEMD, *_SESSION, *_SHELL, *_TERMINAL))
_PREFIXES = (OWN_PREFIX, "GIT_", "SSH_", "GPG_", "LISTEN_")
_KEPT = frozenset({"GIT_SSL_CAINFO", "GIT_SSL_CAPATH"})
_PROXIES = frozenset({"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"})
_CREDENTIAL = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|APIKEY|(^|_)(KEY|AUTH|PAT|PASS|PWD))S?(_|$)"
)
_PASSWORD_IN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]*:[^/?#\s]+@")


def of_the_agent(environ: Mapping[str, str], passed: Collection[str] = ()) -> dict[str, str]:
    """The part of the agent's environment that steps get. `passed`: names that are always included."""
    kept = {name: value for name, value in environ.items() if name in passed or not _private(name, value)}
    if "CONDA_PREFIX" in kept and _same(kept["CONDA_PREFIX"], sys.prefix):
        kept = {name: value for name, value in kept.items() if name not in _CONDA or name in passed}
    if "PATH" not in passed:
        kept["PATH"] = without(kept.get("PATH", ""), own_programs(environ)) or DEFAULT_PATH
    kept.setdefault("LANG", "C.UTF-8")
    return kept


def _private(name: str, value: str) -> bool:
    if name in _KEPT or name.lower() in _PROXIES:
        return False
    if name in _NAMES or name.startswith(_PREFIXES):
        return True
    return bool(_CREDENTIAL.search(name.upper()) or _PASSWORD_IN_URL.search(value))


def own_programs(environ: Mapping[str, str]) -> list[str]:
    """The program directories of the agent's Python environment, if it has one."""
    homes = [environ["VIRTUAL_ENV"]] if environ.get("VIRTUAL_ENV") else []
    if sys.prefix != sys.base_prefix or Path(sys.prefix, "conda-meta").is_dir():
        homes.append(sys.prefix)
    return [os.path.join(home, "bin") for home in homes]


def without(path: str, directories: Iterable[str]) -> str:
    """The search path without these directories; symbolic links to them are removed as well."""
    found = [entry for entry in path.split(os.pathsep) if entry]
    return os.pathsep.join(entry for entry in found if not any(_same(entry, other) for other in directories))


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist
        return os.path.normpath(one) == os.path.normpath(other)


def of_the_user(environment: Mapping[str, str], user: StepUser) -> dict[str, str]:
    """The environment for another user: with their home, without variables that refer to the agent's user."""
    if not user.switched:
        return {"HOME": user.home, "USER": user.name, "LOGNAME": user.name, **environment}
    shared = {
        name: value for name, value in environment.items() if not name.startswith("XDG_") and name != "MAIL"
    }
    return {**shared, "HOME": user.home, "USER": user.name, "LOGNAME": user.name, "SHELL": user.shell}


def of_the_step(task: StepTask, env_file: Path) -> dict[str, str]:
    """The standard variables of every step. `env_file`: the path in `PILOT_ENV`."""
    workspace = task.workspace.resolve()
    return {
        "CI": "true",
        "PILOT": "true",
        "PILOT_RUN_ID": task.run_id,
        "PILOT_JOB": task.job_name,
        "PILOT_STEP": task.step_name,
        "PILOT_STEP_RUN_ID": task.step_run_id,
        "PILOT_ATTEMPT": str(task.attempt),
        "PILOT_PIPELINE": task.pipeline_name,
        "PILOT_COMMIT": task.commit_sha,
        "PILOT_BRANCH": task.branch,
        "PILOT_TAG": task.tag,
        "PILOT_EVENT": task.event,
        "PILOT_WORKSPACE": str(workspace),
        "PILOT_ENV": str(env_file),
        "PYTHONUNBUFFERED": "1",
        "GIT_CEILING_DIRECTORIES": str(workspace.parent),  # git ignores repositories above the workspace
    }
