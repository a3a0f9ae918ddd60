"""Finds git and runs it so that nothing in a repository is executed or trusted.

No configuration of the system, user or checkout is read (repositories created here only have our configuration), no
hook, filter, fsmonitor or credential helper runs, no protocol is allowed, and git does not search for repositories.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pilothouse.workers.children import Children, ChildTimeout, Ended, Limits

OLDEST = (2, 30)
MAX_TEXT = 300  # characters of git's message that are shown

_CONFIG = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.splitIndex": "false",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.symlinks": "true",
    "core.fileMode": "true",
    "core.ignoreCase": "false",
    "core.fsync": "none",
    "core.packedRefsTimeout": "0",
    "core.filesRefLockTimeout": "0",
    "filter.lfs.smudge": "",
    "filter.lfs.process": "",
    "filter.lfs.required": "false",
    "protocol.allow": "never",
    "submodule.recurse": "false",
    "index.version": "2",
    "index.threads": "1",
    "checkout.workers": "2",
    "pack.threads": "2",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "advice.detachedHead": "false",
}


class GitFailed(Exception):
    """A git command failed; the message is the first line of git's output. ``stderr``: all of that (at most 64 KiB),
    which the other side of a connection may have written."""

    code = "GIT_FAILED"

    def __init__(self, message: str, stderr: str = "") -> None:
        super().__init__(message)
        self.stderr = stderr


class Git:
    """An installed git. ``version``: for example "2.39.5"."""

    def __init__(self, program: str, version: str, children: Children) -> None:
        self.version = version
        self._program = program
        self._children = children
        self._settings = [word for key, value in _CONFIG.items() for word in ("-c", f"{key}={value}")]

    async def run(
        self,
        *arguments: str,
        git_dir: Path,
        work_tree: Path | None = None,
        index: Path | None = None,
        config: Mapping[str, str] | None = None,
        stdin: bytes | Path = b"",
        stdout: Path | None = None,
        good: Sequence[int] = (0,),
        limits: Limits = Limits(),
    ) -> bytes:
        """Run git and return its output. Raises as :meth:`call`."""
        ended = await self.call(
            *arguments, git_dir=git_dir, work_tree=work_tree, index=index, config=config, stdin=stdin,
            stdout=stdout, good=good, limits=limits,
        )  # fmt: skip
        return ended.stdout

    async def call(
        self,
        *arguments: str,
        git_dir: Path,
        work_tree: Path | None = None,
        index: Path | None = None,
        config: Mapping[str, str] | None = None,
        stdin: bytes | Path = b"",
        stdout: Path | None = None,
        good: Sequence[int] = (0,),
        limits: Limits = Limits(),
        environment: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run git. Raises GitFailed for an exit code not in ``good`` or a timeout; ChildWroteTooMuch.

        ``environment``: variables beside those of the isolated environment, which they override.
        """
        more = [word for key, value in (config or {}).items() for word in ("-c", f"{key}={value}")]
        try:
            ended = await self._children.run(
                [self._program, *self._settings, *more, *arguments],
                cwd=work_tree or git_dir,
                env=_environment(git_dir, work_tree, index) | dict(environment or {}),
                stdin=stdin,
                stdout=stdout,
                limits=limits,
            )
        except ChildTimeout:
            raise GitFailed(f"git {arguments[0]} took longer than {limits.seconds:g} s") from None
        # update-index only prints this for a path that it refuses, and continues.
        if ended.code not in good or ended.stderr.startswith(b"Ignoring path"):
            stderr = ended.stderr[:65536].decode("utf-8", "replace")
            raise GitFailed(f"git {arguments[0]}: {_said(ended)}", stderr)
        return ended


def find_git() -> tuple[str, str] | None:
    """Path and version of the installed git; None if it is missing or too old."""
    program = shutil.which("git")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, timeout=10, check=False, env={"LC_ALL": "C"}, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(rb"git version (\d+)\.(\d+)([\w.]*)", done.stdout)
    if done.returncode or found is None or (int(found[1]), int(found[2])) < OLDEST:
        return None
    return program, b"".join((found[1], b".", found[2], found[3])).decode("ascii", "replace")


def good_ref(name: str) -> bool:
    """Whether ``refs/heads/<name>`` is a valid ref name (git check-ref-format) and ``name`` is not an option."""
    parts = name.split("/")
    return (
        bool(name)
        and encodable(name)
        and len(os.fsencode(name)) <= 1024
        and not name.startswith("-")
        and not name.endswith(".")
        and name != "@"
        and not re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{", name)
        and all(part and not part.startswith(".") and not part.endswith(".lock") for part in parts)
    )


def encodable(text: str) -> bool:
    """Whether the text can be encoded as a file name: JSON can contain any unpaired surrogate, but only some
    represent bytes that are not UTF-8."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def config_file(sections: Iterable[tuple[str, str, Mapping[str, str]]]) -> str:
    """The text of a git configuration from (section, subsection or ``""``, keys and values)."""
    lines = []
    for section, name, values in sections:
        lines.append(f"[{section} {_quoted(name)}]" if name else f"[{section}]")
        lines += [f"\t{key} = {_quoted(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _environment(git_dir: Path, work_tree: Path | None, index: Path | None) -> dict[str, str]:
    environment = {
        "PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin"),
        "HOME": "/nonexistent",
        "XDG_CONFIG_HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_DIR": str(git_dir),
        "GIT_CEILING_DIRECTORIES": "/",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_ADVICE": "0",
    }
    if work_tree is not None:
        environment["GIT_WORK_TREE"] = str(work_tree)
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    return environment


def _said(ended: Ended) -> str:
    lines = [line.strip() for line in ended.stderr[:65536].decode("utf-8", "replace").splitlines()]
    text = next((line for line in lines if line.startswith(("fatal:", "error:"))), "")
    text = text or next(filter(None, lines), "")
    if not text:
        return f"it was killed by signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
    return "".join(char if char.isprintable() else "?" for char in text[:MAX_TEXT])
