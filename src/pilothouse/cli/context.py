"""Saved contexts: ``contexts.toml`` in ``$PILOT_CONFIG_HOME`` or ``~/.config/pilothouse``, mode 0600."""

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
    """A server and its token; ``grpc`` is ``host:port`` if known.

    ``data_dir``: the data directory, if ``pilot up`` runs the server on this machine.
    """

    name: str
    server: str
    token: str = ""
    grpc: str = ""
    data_dir: str = ""


@dataclass(frozen=True, slots=True)
class Contexts:
    """All saved contexts; ``current`` is the name of the current one, or empty."""

    current: str = ""
    all: dict[str, Context] = field(default_factory=dict)

    def get(self, name: str = "") -> Context | None:
        """The named or the current context. Raises UsageError for an unknown name."""
        if name and name not in self.all:
            known = ", ".join(sorted(self.all)) or "none"
            raise UsageError(f"there is no context {name!r} (known: {known})")
        return self.all.get(name or self.current)

    def with_context(self, context: Context, *, use: bool) -> Contexts:
        """Add or replace a context."""
        current = context.name if use or not self.current else self.current
        return Contexts(current, {**self.all, context.name: context})

    def without_token(self, name: str) -> Contexts:
        """Remove the token of a context."""
        return replace(self, all={**self.all, name: replace(self.all[name], token="")})


def config_home() -> Path:
    """The user's configuration directory."""
    if home := os.environ.get("PILOT_CONFIG_HOME"):
        return Path(home)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "pilothouse"


class ContextStore:
    """The contexts file. Changes are made under a lock and written atomically."""

    def __init__(self, directory: Path | None = None) -> None:
        self.path = (directory or config_home()) / "contexts.toml"

    def load(self) -> Contexts:
        """Load the file; empty if it does not exist. Raises CliError if it is invalid."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return Contexts()
        import tomllib

        try:
            raw = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise CliError(
                f"{self.path} is damaged: {error}", hint="fix or delete it, then log in again"
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
        """Add or replace a context; ``use`` makes it the current one."""
        self.change(lambda contexts: contexts.with_context(context, use=use))

    def forget_token(self, name: str) -> None:
        """Remove a context's token."""
        self.change(lambda contexts: contexts.without_token(name))

    def use(self, name: str) -> None:
        """Make a context the current one. Raises UsageError for an unknown name."""

        def used(contexts: Contexts) -> Contexts:
            contexts.get(name)
            return replace(contexts, current=name)

        self.change(used)

    def change(self, change: Callable[[Contexts], Contexts]) -> None:
        """Apply ``change`` to the saved contexts atomically."""
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

        descriptor, name = tempfile.mkstemp(prefix=".contexts-", dir=self.path.parent)  # mode 0600
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

    # JSON strings are valid TOML basic strings, except for DEL, which TOML requires to be escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
