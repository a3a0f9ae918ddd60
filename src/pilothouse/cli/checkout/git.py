"""Running git so that it changes nothing, asks nothing, and runs nothing that the repository names.

Hooks, fsmonitor and filters are switched off, replacements and grafts ignored, and no environment variable of a
surrounding git (a hook's ``GIT_DIR``, for example) decides which repository is read. Its ``GIT_INDEX_FILE`` counts
only where :mod:`.chosen_index` says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from pilothouse.cli.checkout import interrupt
from pilothouse.cli.checkout.errors import GitFailed, GitMissing, PackingError
from pilothouse.cli.checkout.fetching import without_programs

TIMEOUT = 1800.0
"""Seconds that one call of git may take; the first pack of a large repository is the longest."""

_MAX_ANSWER = 8 << 20
_MAX_RECORD = 1 << 20
_CHUNK = 1 << 18

# Where git may look and how it reaches a remote are settings of the user; the rest is about one repository.
_KEPT = frozenset(
    {
        "GIT_CEILING_DIRECTORIES",
        "GIT_DISCOVERY_ACROSS_FILESYSTEM",
        "GIT_CONFIG_GLOBAL",
        "GIT_CONFIG_SYSTEM",
        "GIT_CONFIG_NOSYSTEM",
        "GIT_ATTR_NOSYSTEM",
        "GIT_EXEC_PATH",
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "GIT_SSH_VARIANT",
        "GIT_SSL_CAINFO",
        "GIT_SSL_CAPATH",
        "GIT_SSL_CERT",
        "GIT_SSL_KEY",
        "GIT_SSL_NO_VERIFY",
        "GIT_PROXY_SSL_CAINFO",
        "GIT_ALLOW_PROTOCOL",
    }
)
_SET = {
    "LC_ALL": "C",
    "LANGUAGE": "",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "SSH_ASKPASS_REQUIRE": "never",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull + "/none",  # an empty one, too, makes git talk of grafts
    "GIT_LITERAL_PATHSPECS": "1",
}
_CONFIG = (
    f"core.hooksPath={os.devnull}",
    "core.fsmonitor=",  # empty is off in every version: older ones take any other word for a program
    "core.untrackedCache=false",
    "core.askPass=",
    "core.quotePath=false",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
)


def environment() -> dict[str, str]:
    """The environment that git gets."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not (name.startswith("GIT_") or name == "SSH_ASKPASS")
    }
    return kept | _SET


class Git:
    """git in one directory. ``config``: further ``name=value`` settings, stronger than all files.

    ``index``: the index file to work with; else the repository's own.

    Every method raises GitMissing, and GitFailed unless git's exit status is in ``expect``.
    """

    def __init__(self, directory: Path, config: Sequence[str] = (), index: Path | None = None) -> None:
        self.directory = directory
        self._config = (*_CONFIG, *config)
        self._index = index

    def with_config(self, config: Sequence[str]) -> Git:
        """The same with more settings."""
        return Git(self.directory, (*self._config[len(_CONFIG) :], *config), self._index)

    def _environment(self) -> dict[str, str]:
        found = without_programs(self.directory, environment())
        return found | {"GIT_INDEX_FILE": os.fspath(self._index)} if self._index is not None else found

    def answer(self, *arguments: str, input: bytes = b"", expect: Sequence[int] = (0,)) -> bytes:
        """All of stdout, at most 8 MiB."""
        with _spooled([input]) as stdin, self._running(arguments, stdin, expect) as stdout:
            data = stdout.read(_MAX_ANSWER + 1)
            if len(data) > _MAX_ANSWER:
                raise PackingError(f"git {arguments[0]} answers with over {_MAX_ANSWER >> 20} MiB")
        return data

    def line(self, *arguments: str, expect: Sequence[int] = (0,)) -> str:
        """Stdout without its last newline; empty if there is none."""
        return os.fsdecode(self.answer(*arguments, expect=expect).removesuffix(b"\n"))

    def records(
        self, *arguments: str, input: Iterable[bytes] = (), end: bytes = b"\0", complaints: bool = True
    ) -> Iterator[bytes]:
        """Stdout record by record as it comes, each without its ``end``.

        Without ``complaints`` git must not say on stderr that there is something it cannot read.
        """
        with _spooled(input) as stdin, self._running(arguments, stdin, (0,), complaints) as stdout:
            rest = b""
            while chunk := stdout.read(_CHUNK):
                *whole, rest = (rest + chunk).split(end)
                yield from whole
                if len(rest) > _MAX_RECORD:
                    raise PackingError(f"git {arguments[0]} answers with a record of over 1 MiB")
            if rest:
                yield rest

    def into(self, file: IO[bytes], limit: int, *arguments: str, input: Iterable[bytes]) -> tuple[str, int]:
        """Write stdout into ``file``; its SHA-256 and size. Raises OverflowError beyond ``limit`` bytes."""
        digest, size = hashlib.sha256(), 0
        with _spooled(input) as stdin, self._running(arguments, stdin, (0,)) as stdout:
            while chunk := stdout.read(_CHUNK):
                size += len(chunk)
                if size > limit:
                    raise OverflowError(size)
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest(), size

    @contextlib.contextmanager
    def _running(
        self, arguments: Sequence[str], stdin: IO[bytes], expect: Sequence[int], complaints: bool = True
    ) -> Iterator[IO[bytes]]:
        settings = [word for setting in self._config for word in ("-c", setting)]
        command = ["git", "-C", os.fspath(self.directory), *settings, *arguments]
        with tempfile.TemporaryFile() as stderr:
            interrupt.check()
            process = _started(command, self._environment(), stdin, stderr)
            interrupt.began(process)
            late = threading.Timer(TIMEOUT, interrupt.kill, (process,))
            late.daemon = True
            late.start()
            try:
                assert process.stdout is not None
                yield process.stdout
                status = process.wait()
            finally:
                timed_out = late.finished.is_set()
                late.cancel()
                _end(process)
                interrupt.ended(process)
                interrupt.check()
            stderr.seek(0)
            said = stderr.read(1 << 16)
        if timed_out:
            raise PackingError(f"git {arguments[0]} takes longer than {TIMEOUT:g} s in {self.directory}")
        if status not in expect or (not complaints and _is_complaint(said)):
            raise GitFailed(said, status)


def _started(
    command: Sequence[str], env: dict[str, str], stdin: IO[bytes], stderr: IO[bytes]
) -> subprocess.Popen[bytes]:
    try:
        # In a session of its own no child of git (ssh, for example) has a terminal to ask at.
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=env,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise GitMissing("there is no git in PATH") from None
    except OSError as error:
        raise PackingError(f"cannot run git: {error.strerror}") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        interrupt.kill(process)
    if process.stdout is not None:
        process.stdout.close()
    process.wait()


def _is_complaint(said: bytes) -> bool:
    """Whether git left something out because it could not read it: then it does not know the work tree."""
    return any(
        line.startswith((b"error:", b"fatal:")) or b"could not open" in line or b"unable to access" in line
        for line in said.splitlines()
    )


@contextlib.contextmanager
def _spooled(parts: Iterable[bytes]) -> Iterator[IO[bytes]]:
    """A file that git reads as its stdin: a pipe would have to be fed while the answer is read."""
    with tempfile.TemporaryFile() as file:
        file.writelines(parts)
        file.seek(0)
        yield file
