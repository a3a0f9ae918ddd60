"""Saved logins: ``contexts.toml`` in ``$PILOT_CONFIG_HOME`` or ``~/.config/pilothouse``, for its owner's eyes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pilothouse.cli.errors import CliError, UsageError


@dataclass(frozen=True, slots=True)
class Context:
    """A server and the token for it; ``grpc`` is ``host:port`` where known.

    ``data_dir``: of a server that ``pilot up`` runs on this machine, where it keeps its data.
    """

    name: str
    server: str
    token: str = ""
    grpc: str = ""
    data_dir: str = ""


@dataclass(frozen=True, slots=True)
class Contexts:
    """All saved contexts; ``current`` is the name of the one in use, or empty."""

    current: str = ""
    all: dict[str, Context] = field(default_factory=dict)

    def get(self, name: str = "") -> Context | None:
        """The named or the current one. Raises UsageError for a name that is not there."""
        if name and name not in self.all:
            known = ", ".join(sorted(self.all)) or "none"
            raise UsageError(f"there is no context {name!r} (known: {known})")
        return self.all.get(name or self.current)

    def with_context(self, context: Context, *, use: bool) -> Contexts:
        """Add or replace one."""
        current = context.name if use or not self.current else self.current
        return Contexts(current, {**self.all, context.name: context})

    def without_token(self, name: str) -> Contexts:
        """Log one out: server kept, token gone."""
        return replace(self, all={**self.all, name: replace(self.all[name], token="")})


def config_home() -> Path:
    """The directory of the user's configuration."""
    if home := os.environ.get("PILOT_CONFIG_HOME"):
        return Path(home)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "pilothouse"


class ContextStore:
    """The file. Changes are made under a lock, on what the file holds then, and written whole."""

    def __init__(self, directory: Path | None = None) -> None:
        self.path = (directory or config_home()) / "contexts.toml"

    def load(self) -> Contexts:
        """What is saved; empty if nothing is. Raises CliError if the file cannot be understood."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return Contexts()
        import tomllib

        try:
            raw = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise CliError(
                f"{self.path} is damaged: {error}", hint="mend or delete it, then log in again"
            ) from None
        saved: dict[str, Any] = raw.get("contexts", {})
        return Contexts(
            raw.get("current", ""),
            {
                name: Context(name, *(each.get(key, "") for key in ("server", "token", "grpc", "data_dir")))
                for name, each in saved.items()
                if isinstance(each, dict)
            },
        )

    def save(self, context: Context, *, use: bool = True) -> None:
        """Add or replace a context; ``use``: it becomes the current one."""
        self.change(lambda contexts: contexts.with_context(context, use=use))

    def forget_token(self, name: str) -> None:
        """Drop a context's token."""
        self.change(lambda contexts: contexts.without_token(name))

    def use(self, name: str) -> None:
        """Make a context the current one. Raises UsageError if there is none of that name."""

        def used(contexts: Contexts) -> Contexts:
            contexts.get(name)
            return replace(contexts, current=name)

        self.change(used)

    def change(self, change: Callable[[Contexts], Contexts]) -> None:
        """Replace what is saved by what ``change`` makes of it, as one step."""
        with self._locked():
            self._write(change(self.load()))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path.parent / ".contexts.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, contexts: Contexts) -> None:
        import tempfile

        descriptor, name = tempfile.mkstemp(
            prefix=".contexts-", dir=self.path.parent
        )  # readable by its owner alone
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(render(contexts))
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise


def render(contexts: Contexts) -> str:
    """The file's text."""
    lines = [f"current = {_quoted(contexts.current)}"]
    for name, context in sorted(contexts.all.items()):
        lines += ["", f"[contexts.{_quoted(name)}]", f"server = {_quoted(context.server)}"]
        lines += [
            f"{key} = {_quoted(value)}"
            for key, value in (
                ("token", context.token),
                ("grpc", context.grpc),
                ("data_dir", context.data_dir),
            )
            if value
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    import json

    # JSON's strings are TOML's basic strings, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
