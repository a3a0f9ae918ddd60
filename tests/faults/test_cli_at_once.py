"""Two concurrent invocations of each command on a real server: correct exit codes and intact files.

Every command must be listed with the result expected of two concurrent invocations.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

from pilothouse.cli.app import build
from support.fake_agent import FakeAgent
from support.server import PASSWORD, Server, running

SPEC = "name: twins\njobs:\n  - name: a\n    steps:\n      - name: a\n        run: echo hello\n"
SPEC += "triggers: [{type: cron, name: nightly, options: {schedule: 0 3 * * *}}]\n"
BOTH, ONE, USAGE = {(0, 0)}, {(0, 1)}, {(2, 2)}
EITHER = BOTH | ONE
"""Sorted exit codes: both succeed; one succeeds and the other finds it done already; either."""


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    if not isinstance(group, TyperGroup) or (group.invoke_without_command and path):
        yield " ".join(path)
    for name, inner in getattr(group, "commands", {}).items():
        yield from commands(inner, (*path, name))


class Place:
    """One user's configuration and project directory, on one server."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self.work = directory / "work"
        self.work.mkdir()
        (self.work / ".pilot.yaml").write_text(SPEC)
        self.config = directory / "config"
        kept = ("PATH", "HOME", "LANG")
        self.env = {name: os.environ[name] for name in kept if name in os.environ} | {
            "XDG_CONFIG_HOME": str(self.config),
            "XDG_CACHE_HOME": str(directory / "cache"),
        }

    def begin(self, words: list[str], stdin: str = "") -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "pilothouse", *words],
            cwd=self.work,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stdin is not None
        child.stdin.write(stdin)
        child.stdin.flush()
        return child

    def one(self, *words: str, stdin: str = "") -> str:
        """One command that must succeed; returns its stdout."""
        out, err = self.begin(list(words), stdin).communicate(timeout=120)
        assert "Traceback" not in err
        return out

    def two(self, words: list[str], stdin: str = "") -> tuple[tuple[int, ...], str]:
        """Run the command twice concurrently: sorted exit codes and the combined output."""
        children = [self.begin(words, stdin) for _ in range(2)]
        said = [child.communicate(timeout=180) for child in children]
        return tuple(sorted(child.returncode for child in children)), "".join(map("".join, said))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("at-once")
    with running(directory) as server:
        place = Place(server, directory)
        place.one("login", server.url, "--username", "admin", stdin=PASSWORD + "\n")
        for name in ("first", "leaves"):
            asyncio.run(_register(server, name))
        for name in ("ann", "bob"):
            place.one("user", "create", name, "--role", "user", stdin=PASSWORD + "\n" + PASSWORD + "\n")
        place.one("project", "create", "shop")
        place.one("pipeline", "run", "--detach")
        yield place


async def _register(server: Server, name: str) -> None:
    async with FakeAgent(server.grpc, name) as agent:
        await agent.register(server.registration_token(max_uses=1))


def _created(place: Place, *words: str) -> str:
    return str(json.loads(place.one(*words, "-o", "json"))["id"])


def _run_id(place: Place) -> str:
    return str(json.loads(place.one("run", "list", "-o", "json"))[0]["id"])


def _trigger(place: Place) -> str:
    return str(json.loads(place.one("trigger", "list", "-o", "json"))[0]["id"])


def _gated(place: Place) -> str:
    """A run that is waiting for approval."""
    file = place.work / "gate.yaml"
    file.write_text("jobs: [{name: j, steps: [{name: ask, uses: approval}]}]")
    return str(json.loads(place.one("pipeline", "run", "-f", str(file), "--detach", "-o", "json"))["id"])


def _paused(place: Place) -> str:
    run_id = _gated(place)
    place.one("run", "pause", run_id)
    return run_id


Words = list[str] | Callable[[Place], list[str]]
PASSWORDS = PASSWORD + "\n" + PASSWORD + "\n"

CASES: dict[str, tuple[Words, set[tuple[int, int]], str]] = {
    "up": (["up", "--port", "70000"], USAGE, ""),
    "server": (["server", "--port", "70000"], USAGE, ""),
    # The one that is earlier is told, if it comes later, that the newest key is not in use yet.
    "server rotate-keys": (lambda place: _maintained(place, "rotate-keys"), EITHER, ""),
    "server new-epoch": (lambda place: _maintained(place, "new-epoch"), {(1, 1)}, ""),  # the server runs
    "login": (lambda place: ["login", place.server.url, "--username", "admin"], BOTH, PASSWORD + "\n"),
    "whoami": (["whoami"], BOTH, ""),
    "init": (["init", "--force"], BOTH, ""),
    "version": (["version"], BOTH, ""),
    "agent": (["agent", "--label", "novalue"], USAGE, ""),
    "agent list": (["agent", "list"], BOTH, ""),
    "agent view": (["agent", "view", "first"], BOTH, ""),
    "agent drain": (["agent", "drain", "first"], BOTH, ""),
    "agent undrain": (["agent", "undrain", "first"], BOTH, ""),
    "agent rm": (["agent", "rm", "leaves"], ONE, ""),
    "agent token create": (["agent", "token", "create", "ci"], BOTH, ""),
    "agent token list": (["agent", "token", "list"], BOTH, ""),
    "agent token revoke": (
        lambda place: ["agent", "token", "revoke", _created(place, "agent", "token", "create", "gone")],
        BOTH,
        "",
    ),
    "user list": (["user", "list"], BOTH, ""),
    "user view": (["user", "view", "ann"], BOTH, ""),
    "user create": (["user", "create", "eve", "--role", "user"], ONE, PASSWORDS),
    "user role": (["user", "role", "ann", "viewer"], BOTH, ""),
    "user password": (["user", "password", "ann"], BOTH, PASSWORDS),
    "user disable": (["user", "disable", "bob"], BOTH, ""),
    "user enable": (["user", "enable", "bob"], BOTH, ""),
    "project list": (["project", "list"], BOTH, ""),
    "project view": (["project", "view", "shop"], BOTH, ""),
    "project create": (["project", "create", "twice"], ONE, ""),
    "project update": (["project", "update", "shop", "--description", "sells"], BOTH, ""),
    "project add-member": (["project", "add-member", "shop", "ann"], BOTH, ""),
    "project remove-member": (["project", "remove-member", "shop", "ann"], BOTH, ""),
    "token create": (["token", "create", "ci"], BOTH, ""),
    "token list": (["token", "list"], BOTH, ""),
    "token revoke": (
        lambda place: ["token", "revoke", _created(place, "token", "create", "gone")],
        ONE,
        "",
    ),
    "secret set": (["secret", "set", "KEY"], BOTH, "s3cr3t-of-two\n"),
    "secret list": (["secret", "list"], BOTH, ""),
    "secret delete": (["secret", "delete", "KEY"], ONE, ""),
    "pipeline run": (["pipeline", "run", "--detach"], BOTH, ""),
    "pipeline trigger": (["pipeline", "trigger", "--detach"], BOTH, ""),
    "pipeline list": (["pipeline", "list"], BOTH, ""),
    "pipeline view": (["pipeline", "view"], BOTH, ""),
    "pipeline spec": (["pipeline", "spec"], BOTH, ""),
    "pipeline lint": (["pipeline", "lint"], BOTH, ""),
    "pipeline schema": (["pipeline", "schema"], BOTH, ""),
    "pipeline plan": (["pipeline", "plan"], BOTH, ""),
    "pipeline exec": (["pipeline", "exec", "--no-checkout"], BOTH, ""),
    "pipeline notifications": (["pipeline", "notifications"], BOTH, ""),
    "pipeline create": (["pipeline", "create", "new"], ONE, ""),
    "pipeline edit": (["pipeline", "edit", "new", "--description", "both"], BOTH, ""),
    "pipeline save": (["pipeline", "save", "new"], BOTH, ""),
    "pipeline pause": (["pipeline", "pause", "new"], BOTH, ""),
    "pipeline resume": (["pipeline", "resume", "new"], BOTH, ""),
    "trigger list": (["trigger", "list"], BOTH, ""),
    "trigger view": (lambda place: ["trigger", "view", _trigger(place)], BOTH, ""),
    "trigger disable": (lambda place: ["trigger", "disable", _trigger(place)], BOTH, ""),
    "trigger enable": (lambda place: ["trigger", "enable", _trigger(place)], BOTH, ""),
    "trigger run": (lambda place: ["trigger", "run", _trigger(place)], BOTH, ""),
    "pipeline delete": (["pipeline", "delete", "new"], ONE, ""),
    "artifact list": (["artifact", "list"], BOTH, ""),
    "artifact download": (["artifact", "download", "none"], {(1, 1)}, ""),
    "artifact delete": (["artifact", "delete", "none"], {(1, 1)}, ""),
    "setting list": (["setting", "list"], BOTH, ""),
    "setting set": (["setting", "set", "retention=30"], BOTH, ""),
    "setting reset": (["setting", "reset", "retention"], BOTH, ""),
    "tenant create": (["tenant", "create", "group"], ONE, ""),
    "tenant list": (["tenant", "list"], BOTH, ""),
    "tenant update": (["tenant", "update", "group", "--description", "both"], BOTH, ""),
    "tenant delete": (["tenant", "delete", "group"], ONE, ""),
    "project members": (["project", "members", "shop"], BOTH, ""),
    "project delete": (["project", "delete", "twice"], ONE, ""),
    "run list": (["run", "list"], BOTH, ""),
    "run view": (["run", "view", "last"], BOTH, ""),
    "run logs": (["run", "logs", "last"], BOTH, ""),
    "run cancel": (lambda place: ["run", "cancel", _run_id(place)], EITHER, ""),
    "run watch": (["run", "watch", "last"], {(3, 3)}, ""),
    # Not ``last``: that may be what the other one has just started.
    "run rerun": (lambda place: ["run", "rerun", _run_id(place)], BOTH, ""),
    "run pause": (lambda place: ["run", "pause", _gated(place)], ONE, ""),
    "run resume": (lambda place: ["run", "resume", _paused(place)], ONE, ""),
    "run approvals": (["run", "approvals"], BOTH, ""),
    "run approve": (lambda place: ["run", "approve", _gated(place)], ONE, ""),
    "run reject": (lambda place: ["run", "reject", _gated(place)], ONE, ""),
    "config show": (["config", "show"], BOTH, ""),
    "config contexts": (["config", "contexts"], BOTH, ""),
    "config use": (lambda place: ["config", "use", _context(place)], BOTH, ""),
    "logout": (["logout"], EITHER, ""),
}
"""In this order, as each changes what the next finds: words, exit codes, standard input."""


def _maintained(place: Place, command: str) -> list[str]:
    return ["server", command, "--data-dir", str(place.server.data_dir)]


def _context(place: Place) -> str:
    return str(json.loads(place.one("config", "contexts", "-o", "json"))[0]["name"])


def test_every_command_is_tried() -> None:
    assert set(commands(typer.main.get_command(build()))) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_of_the_same_at_once(place: Place, name: str) -> None:
    given, expected, stdin = CASES[name]
    words = given if isinstance(given, list) else given(place)
    codes, said = place.two(words, stdin)
    assert codes in expected, said
    assert not any(text in said for text in ("Traceback", "s3cr3t-of-two", PASSWORD))
    if name in ("login", "config use"):  # the file that both have written is whole
        assert place.one("whoami", "-o", "json")
