"""Users, projects, agents and registration tokens by the command line, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import nursery
from support.bodies import TIME
from support.fake_agent import FakeAgent
from support.server import PASSWORD, Server, running
from support.waiting import PATIENCE

Done = subprocess.CompletedProcess[str]
Pilot = Callable[..., Done]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("cli_access")) as server:
        yield server


def environment(server: Server, token: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
    return {**kept, "PILOT_SERVER": server.url, "PILOT_TOKEN": token, "PILOT_CONFIG_HOME": "/nonexistent"}


@pytest.fixture
def pilot(server: Server) -> Pilot:
    """``pilot`` as admin, or as who holds ``token``."""

    def run(*arguments: str, stdin: str = "", token: str = "") -> Done:
        env = environment(server, token or server.admin)
        return nursery.pilot(arguments, cwd="/", env=env, stdin=stdin, timeout=2 * PATIENCE)

    return run


def good(done: Done) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def document(pilot: Pilot, *arguments: str, **more: str) -> Any:
    """What a command prints as JSON."""
    return json.loads(good(pilot(*arguments, "-o", "json", **more)))


def native(value: Any) -> bool:
    """snake_case keys all the way down, and times as RFC 3339."""
    if isinstance(value, list):
        return all(map(native, value))
    if not isinstance(value, dict):
        return True
    times = [v for k, v in value.items() if k.endswith("_at") and v is not None]
    return (
        all(re.fullmatch(r"[a-z0-9_]+", key) for key in value)
        and all(TIME.fullmatch(str(at)) for at in times)
        and all(map(native, value.values()))
    )


def test_users(server: Server, pilot: Pilot) -> None:
    made = document(
        pilot, "user", "create", "ann", "--role", "viewer", "--email", "ann@x.y", stdin=PASSWORD + "\n"
    )
    assert (made["username"], made["role"], made["email"]) == ("ann", "viewer", "ann@x.y")
    assert native(made)
    token = server.login("ann")
    assert re.search(r"^ann +viewer +yes +ann@x.y +\d+s ago$", good(pilot("user", "list")), re.MULTILINE)
    assert [u["username"] for u in document(pilot, "user", "list", "--role", "viewer")] == ["ann"]
    assert "viewer" in good(pilot("user", "view", "ann"))
    good(pilot("user", "role", "ann", "operator"))
    assert document(pilot, "user", "view", "ann")["role"] == "operator"
    good(pilot("user", "password", "ann", "--password-stdin", stdin="another password"))
    assert pilot("whoami", token=token).returncode == 4, "their logins end"
    token = server.login("ann", "another password")
    wrong = pilot("user", "password", stdin="no\nthird password\n", token=token)
    assert wrong.returncode != 0
    good(pilot("user", "password", stdin="another password\nthird password\n", token=token))
    token = server.login("ann", "third password")
    good(pilot("user", "disable", "ann"))
    assert pilot("whoami", token=token).returncode == 4
    assert [u["username"] for u in document(pilot, "user", "list", "--disabled")] == ["ann"]
    good(pilot("user", "enable", "ann"))
    server.login("ann", "third password")


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [
        (("user", "create", "bob"), "", 2),
        (("user", "create", "bob"), "short", 2),
        (("user", "create", "bob", "secret-password"), PASSWORD, 2),
        (("user", "create", "bob", "--password", "x"), PASSWORD, 2),
        (("user", "create", "bob", "--role", "king"), PASSWORD, 2),
        (("user", "create", "bob", "--project", "nowhere"), PASSWORD, 1),
        (("user", "role", "admin", "viewer"), "", 1),
        (("user", "role", "nobody", "viewer"), "", 1),
        (("user", "disable", "admin"), "", 1),
        (("user", "password"), "one line", 2),
        (("user", "password", "nobody"), PASSWORD, 1),
        (("project", "update", "default"), "", 2),
        (("project", "view", "nowhere"), "", 1),
        (("project", "add-member", "default", "nobody"), "", 1),
        (("agent", "rm", "nobody"), "", 1),
        (("agent", "token", "revoke", "nothing"), "", 1),
        (("agent", "token", "create", "x", "--project", "nowhere"), "", 2),
        (("agent", "token", "create", "x", "--max-uses", "0"), "", 2),
        (("agent", "token", "create", "x", "--expires-in", "soon"), "", 2),
    ],
)
def test_what_is_refused(pilot: Pilot, arguments: tuple[str, ...], stdin: str, code: int) -> None:
    done = pilot(*arguments, stdin=stdin)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stderr


def test_who_is_no_admin(server: Server, pilot: Pilot) -> None:
    token = server.user("viewer-1", "viewer")
    for arguments in (
        ("user", "list"),
        ("user", "create", "x"),
        ("project", "create", "x"),
        ("agent", "rm", "x"),
        ("agent", "token", "list"),
        ("agent", "token", "create"),
    ):
        done = pilot(*arguments, stdin=PASSWORD, token=token)
        assert done.returncode == 4, (arguments, done.stderr)


def test_projects(server: Server, pilot: Pilot) -> None:
    server.user("carl", "user", [])
    made = document(pilot, "project", "create", "store", "--description", "The store", "--member", "carl")
    assert native(made)
    assert (made["name"], made["default"], [m["username"] for m in made["members"]]) == (
        "store",
        False,
        ["carl"],
    )
    assert (
        document(pilot, "project", "view", "store") == document(pilot, "project", "view", made["id"]) == made
    )
    assert made in document(pilot, "project", "list")
    good(pilot("project", "update", "store", "--name", "stores"))
    good(pilot("project", "remove-member", "stores", "carl"))
    assert document(pilot, "project", "view", "stores")["members"] == []
    good(pilot("project", "add-member", "stores", "carl"))
    table = good(pilot("project", "list")).splitlines()
    assert table[0].split() == ["NAME", "ID", "MEMBERS", "DEFAULT", "DESCRIPTION"]
    assert "carl" in good(pilot("project", "view", "stores"))


def test_projects_are_deleted_and_list_their_members(server: Server, pilot: Pilot) -> None:
    server.user("gina", "viewer", [])
    id = document(pilot, "project", "create", "brief", "--member", "gina")["id"]
    (member,) = document(pilot, "project", "members", "brief")
    assert native(member)
    assert (member["username"], member["role"], member["active"]) == ("gina", "viewer", True)
    assert re.search(r"^gina +viewer +yes ", good(pilot("project", "members", "brief")), re.MULTILINE)
    asked = pilot("project", "delete", "brief")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert "--yes" in asked.stderr
    assert document(pilot, "project", "delete", "brief", "--yes") == {"id": id, "name": "brief"}
    assert pilot("project", "view", "brief").returncode == 1
    refused = pilot("project", "delete", "default", "-y")
    assert refused.returncode == 1
    assert "it is the default project" in refused.stderr


def test_tenants(server: Server, pilot: Pilot) -> None:
    made = document(pilot, "tenant", "create", "retail", "--description", "All shops")
    assert native(made)
    assert (made["name"], made["description"], made["projects"]) == ("retail", "All shops", 0)
    good(pilot("project", "create", "shoes"))
    good(pilot("project", "update", "shoes", "--tenant", "retail"))
    assert document(pilot, "project", "view", "shoes")["tenant_id"] == made["id"]
    assert re.search(r"^retail +\S+ +1 +All shops$", good(pilot("tenant", "list")), re.MULTILINE)
    refused = pilot("tenant", "delete", "retail")
    assert (refused.returncode, "1 projects" in refused.stderr) == (1, True)
    good(pilot("tenant", "update", "retail", "--name", "shops"))
    good(pilot("project", "update", "shoes", "--tenant", ""))
    good(pilot("tenant", "delete", "shops"))
    assert document(pilot, "tenant", "list") == []
    assert pilot("tenant", "delete", "shops").returncode == 1


def test_settings(server: Server, pilot: Pilot) -> None:
    shown = {each["name"]: each for each in document(pilot, "setting", "list")}
    assert "port" not in shown
    assert shown["retention"]["from"] == "default"
    assert "port" in good(pilot("setting", "list", "--all"))
    changed = document(
        pilot, "setting", "set", "retention=30", "ratelimit_console=99/minute", "quota_blobs=5GiB"
    )
    assert all(map(native, changed))
    assert {each["name"]: each["value"] for each in changed} == {
        "retention": 30.0,
        "ratelimit_console": "99/minute",
        "quota_blobs": 5 << 30,
    }
    assert re.search(r"^retention +30.0 +database +admin$", good(pilot("setting", "list")), re.MULTILINE)
    assert "reset: 0.0" in pilot("setting", "reset", "retention").stderr
    good(pilot("setting", "reset", "ratelimit_console", "quota_blobs"))
    for arguments, code in [(("set", "port=80"), 1), (("set", "retention"), 2), (("set", "nothing=1"), 2)]:
        done = pilot("setting", *arguments)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr


def test_whoami(server: Server, pilot: Pilot) -> None:
    project = server.project("mine")
    token = server.user("dora", "user", [project])
    shown = document(pilot, "whoami", token=token)
    assert native(shown)
    assert (shown["username"], shown["role"], shown["server"], shown["context"]) == (
        "dora",
        "user",
        server.url,
        None,
    )
    assert shown["projects"] == [{"id": project, "name": "mine"}]
    assert shown["token"]["expires_at"]
    text = good(pilot("whoami", token=token))
    assert re.search(r"^projects +mine$", text, re.MULTILINE)
    narrow = server.ask("POST", "/tokens", json={"name": "narrow", "role": "viewer"})["token"]
    assert "admin (this token: viewer)" in good(pilot("whoami", token=narrow))
    assert pilot("whoami", token="nonsense").returncode == 4


def test_agents_and_what_they_register_with(server: Server, pilot: Pilot) -> None:
    server.project("fleet")
    words = ("--project", "fleet", "--label", "only", "--label", "zone=a", "--agent", "w*", "--max-uses", "2")
    secret = good(pilot("agent", "token", "create", "hosts", *words, "--expires-in", "1h")).strip()
    assert secret.startswith("pilotreg_")
    (listed,) = document(pilot, "agent", "token", "list")
    assert native(listed)
    assert (listed["agents"], listed["labels"], listed["max_uses"]) == (["w*"], ["only", "zone=a"], 2)
    table = good(pilot("agent", "token", "list"))
    assert secret not in table
    assert re.search(
        r"hosts +0/2 +20\S+Z +projects fleet; labels only, zone=a; agents w\*$", table, re.MULTILINE
    )

    async def register() -> None:
        async with FakeAgent(server.grpc, "w1", labels={"zone": "a"}) as agent:
            await agent.register(secret)

    asyncio.run(register())
    table = good(pilot("agent", "list"))
    assert re.search(r"^w1 +process +offline +0/4 +fleet +only=w1 zone=a$", table, re.MULTILINE)
    text = good(pilot("agent", "view", "w1"))
    assert re.search(r"^projects +fleet$", text, re.MULTILINE)
    assert re.search(rf"^registered +with token {listed['id']} \(hosts\) of admin$", text, re.MULTILINE)
    assert native({k: v for k, v in document(pilot, "agent", "view", "w1").items() if k != "labels"})
    good(pilot("agent", "drain", "w1"))
    assert document(pilot, "agent", "view", "w1")["draining"] is True
    good(pilot("agent", "undrain", "w1"))
    good(pilot("agent", "rm", "w1"))
    assert pilot("agent", "view", "w1").returncode == 1
    good(pilot("agent", "token", "revoke", listed["id"]))
    assert "revoked" in good(pilot("agent", "token", "list"))


def test_on_a_terminal_a_password_is_asked_for_twice_and_not_shown(server: Server) -> None:
    child, terminal = pty.fork()
    if child == 0:
        words = [sys.executable, "-m", "pilothouse", "user", "create", "typed"]
        os.execve(words[0], words, environment(server, server.admin))
    shown = b""
    for answer in ("first try!", "second try!", PASSWORD, PASSWORD):
        shown += _until_it_asks(terminal)
        os.write(terminal, answer.encode() + b"\n")
    shown += _until_it_asks(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    assert b"is created" in shown
    assert PASSWORD.encode() not in shown
    assert b"first try" not in shown
    server.login("typed")


def _until_it_asks(terminal: int) -> bytes:
    """What it writes up to the next question, or its end.

    The space behind the colon is written once the echo is off; what is typed before that is thrown away.
    """
    said, end = b"", time.monotonic() + 60
    while not said.endswith(b": ") and time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            try:
                piece = os.read(terminal, 1000)
            except OSError:
                break
            if not piece:
                break
            said += piece
    return said


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []


def test_the_client_alone(tmp_path: Path) -> None:
    """``pilot agent token`` is no agent: it starts none and needs no data directory."""
    done = subprocess.run(
        (sys.executable, "-m", "pilothouse", "agent", "token"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_logins_are_listed_and_ended(server: Server, pilot: Pilot) -> None:
    token, lost = server.user("lena", "user", []), server.login("lena")
    logins = document(pilot, "token", "list", "--login", token=token)
    assert native(logins)
    assert [each["current"] for each in logins] == [False, True]
    assert "(this one)" in good(pilot("token", "list", "--login", token=token))
    good(pilot("token", "revoke", logins[0]["id"], "--login", token=token))
    assert pilot("whoami", token=lost).returncode == 4
    others = [server.login("lena") for _ in range(2)]
    assert pilot("token", "revoke", "--login", "--others", token=token).stderr == "Ended 2 logins.\n"
    assert {pilot("whoami", token=each).returncode for each in others} == {4}
    assert [e["user"] for e in document(pilot, "token", "list", "--login", "--user", "lena")] == ["lena"]
    assert pilot("token", "list", "--login", "--user", "admin", token=token).returncode == 4
    for wrong in (
        ("revoke",),
        ("revoke", "--others"),
        ("revoke", "x", "--login", "--others"),
        ("revoke", "x", "--login", "--user", "lena"),
        ("list", "--user", "lena"),
        ("list", "--login", "--agent"),
    ):
        assert pilot("token", *wrong).returncode == 2, wrong
    good(pilot("token", "revoke", "--login", "--others", "--user", "lena"))
    assert pilot("whoami", token=token).returncode == 4
