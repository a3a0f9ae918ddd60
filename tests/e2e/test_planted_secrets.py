"""Invariant 8: secrets of every kind are planted and used on every surface, rightly and wrongly, then looked for."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from support.desk import Desk
from support.fake_agent import FakeAgent, batch, events
from support.planted import Planted
from support.server import Server, running
from support.waiting import PATIENCE, eventually

FAILED = 5
AGENT = "planted"


def unmistakable(kind: str) -> str:
    return f"Zq-{kind}-{uuid.uuid4().hex[:20]}"


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, database_of_servers: None, planted: Planted
) -> Iterator[Server]:
    """A server of its own, since everything that it stores and logs is searched."""
    with running(tmp_path_factory.mktemp("planted"), log_level="debug") as server:
        planted.add("token of the admin", server.admin)
        planted.watch_answers(server)
        with planted.watching_processes():
            yield server


@pytest.fixture(scope="module")
def secrets(server: Server, planted: Planted) -> dict[str, str]:
    """Secrets of the project, and what expressions make of them."""
    values = {
        "TOKEN": planted.add("secret", unmistakable("secret") + "/+'\"$x"),
        "KEY": "\n".join(planted.add(f"line {n} of a secret", unmistakable(f"line{n}")) for n in range(4)),
        "PIN": planted.add("number", str(uuid.uuid4().int)[:17]),
    }
    for name, value in values.items():
        server.ask("PUT", f"/secrets/{name}", json={"value": value})
    planted.add("derived number", str(int(values["PIN"]) + 1))
    planted.add("derived text", values["TOKEN"].replace("-", "_"))
    planted.add("derived part", values["TOKEN"][3:20])
    return values


@pytest.fixture(scope="module")
def agent(server: Server, planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real agent in a process of its own; its directory, with its log."""
    home = tmp_path_factory.mktemp("agent")
    token = planted.add("registration token", server.registration_token())
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
    command = [sys.executable, "-m", "pilothouse", "agent", "--server", server.url, "--grpc", server.grpc]
    command += ["--name", AGENT, "--label", f"only={AGENT}", "--data-dir", str(home / "data"), "--slots", "4"]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            command, env={**environment, "PILOT_AGENT_TOKEN": token}, stdout=log, stderr=log, cwd=home
        )
    try:
        yield home
    finally:
        process.terminate()
        process.wait(PATIENCE)


def job(name: str, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    selector = {"matchLabels": {"only": AGENT}}
    made = [
        {"agentSelector": selector, "uses": "shell", **step, "name": f"s{n}"} for n, step in enumerate(steps)
    ]
    return {"name": name, "steps": made, **more}


OF_JOB = {"TOKEN": "${{ secrets.TOKEN }}"}
ENV = {
    "KEY": "${{ secrets.KEY }}",
    "NEXT": "${{ int(secrets.PIN) + 1 }}",
    "MADE": "${{ env.TOKEN }}${{ secrets.TOKEN.replace('-', '_') }}",
    "PART": "${{ secrets.TOKEN.substring(3, 20) }}",
}
SHOW = r"""
set -x
echo "$TOKEN $NEXT $MADE $PART"; printf '%s\n' "$KEY"; echo "$KEY" | base64; printf %s "$TOKEN" | base64 -w0
printf %s "x$TOKEN" | od -An -tx1 | tr -d ' \n'; echo
printf '%q\n' "$TOKEN" || true
printf '::output name=%s\n' "$TOKEN"; printf '::output-json {"a": ["%s"]}\n' "$NEXT"
printf '::output made=%s\n' "$MADE"
printf '::progress 40 at %s\n' "$PART"
printf %s "$TOKEN"; sleep 0.1; echo " unfinished" >&2; export -p
"""


def status(server: Server, run_id: str) -> str:
    return str(server.ask("GET", f"/workflow-runs/{run_id}")["status"])


async def finished(server: Server, run_id: str) -> dict[str, Any]:
    await eventually(lambda: status(server, run_id) in ("succeeded", "failed", "cancelled"))
    view: dict[str, Any] = server.ask("GET", f"/workflow-runs/{run_id}")
    return view


def read_back(server: Server, run_id: str) -> None:
    """Every way to read a run; the answers are searched."""
    server.ask("GET", f"/workflow-runs/{run_id}")
    server.call("GET", f"/workflow-runs/{run_id}/logs")
    with contextlib.suppress(Exception):
        server.call("GET", f"/events?stream=run/{run_id}&cursor=start", timeout=1)


# -- people -----------------------------------------------------------------------------------------------


def test_logins_and_passwords(server: Server, planted: Planted) -> None:
    password, wrong = planted.add("password", unmistakable("pw")), planted.add("wrong", unmistakable("wrong"))
    changed, reset = (
        planted.add("new password", unmistakable("new")),
        planted.add("reset", unmistakable("reset")),
    )
    key = {"Idempotency-Key": "planted-user"}
    for _ in range(2):  # the second is a repeated answer
        server.call(
            "POST", "/users", headers=key, json={"username": "pia", "password": password, "role": "user"}
        )
    server.call("POST", "/users", headers=key, json={"username": "pia", "password": wrong, "role": "user"})
    server.call("POST", "/users", json={"username": "bad name!", "password": password, "role": "user"})
    server.call("POST", "/users", json={"username": "pib", "password": password, "role": "nothing"})
    server.call("POST", "/users", json={"username": "pib", "password": {"x": password}})
    for body in (
        {"username": "pia", "password": wrong},
        {"username": "nobody", "password": password},
        {"username": password, "password": "x"},  # typed into the wrong field
        {"username": "pia", "password": [password]},
        {"password": password},
        {"username": "pia", "password": password, "unknown": password},
    ):
        server.call("POST", "/auth/login", None, json=body)
    server.call("POST", "/auth/login", None, content=f'{{"username": "pia", "password": "{password}'.encode())
    token = planted.add("session", server.login("pia", password))
    server.call("GET", "/auth/me", None, headers={"Cookie": f"pilot_token={token}"})
    server.call("POST", "/auth/password", token, json={"old_password": wrong, "new_password": changed})
    server.call("POST", "/auth/password", token, json={"current_password": password, "new_password": changed})
    server.call("POST", "/users/pia/password", json={"password": reset})
    for way in ("GET", "POST"):
        server.call(way, f"/auth/me?token={token}", None)
    for header in (
        f"Basic {token}",
        f"Bearer  {token}x",
        token,
        f"Bearer {token[:-3]}",
        f"Bearer {token} more",
    ):
        server.call("GET", "/auth/me", None, headers={"Authorization": header})
    server.call("GET", "/workflow-runs", None, headers={"Cookie": f"pilot_token={token}; other={token}"})
    server.call("GET", f"/ws?token={token}", None)
    server.call("POST", "/auth/logout", token)


def test_api_tokens_and_repeated_answers(server: Server, planted: Planted) -> None:
    for path, body in (
        ("/tokens", {"name": "planted", "role": "viewer"}),
        ("/registration-tokens", {"description": "planted"}),
    ):
        key = {"Idempotency-Key": f"planted{path.replace('/', '-')}"}
        made = server.call("POST", path, headers=key, json=body).json()
        made = made.get("detail", made)
        token = planted.add(f"token of {path}", made["token"])
        server.call("POST", path, headers=key, json=body)
        server.call("POST", path, headers=key, json={**body, "more": token})
        server.call("GET", path)
        server.call("DELETE", f"{path}/{token}")
        server.call("GET", "/workflow-runs", token)
        server.call("POST", "/pipelines", token, json={"name": "x"})
    server.call("GET", "/audit")


def test_secrets_that_are_refused(server: Server, planted: Planted, secrets: dict[str, str]) -> None:
    value = planted.add("refused secret", unmistakable("refused"))
    for body in (
        {"value": value * 3000},
        {"value": "\n".join(f"{value}{n}" for n in range(1001))},
        {"value": [value]},
        {"value": {"x": value}},
        [value],
    ):
        assert server.call("PUT", "/secrets/REFUSED", json=body).status_code >= 400
    server.call("PUT", "/secrets/not a name", json={"value": value})
    server.call("PUT", "/secrets/REFUSED", content=f'{{"value": "{value}'.encode())
    server.call("PUT", "/secrets/REFUSED", "no-token", json={"value": value})
    server.ask("PUT", "/secrets/REPLACED", json={"value": planted.add("replaced", unmistakable("replaced"))})
    server.ask(
        "PUT", "/secrets/REPLACED", json={"value": planted.add("replacing", unmistakable("replacing"))}
    )
    server.ask("DELETE", "/secrets/REPLACED")
    server.call("GET", "/secrets")
    server.call("GET", "/secrets/TOKEN")


# -- runs -------------------------------------------------------------------------------------------------


async def test_runs_that_show_their_secrets(server: Server, secrets: dict[str, str], agent: Path) -> None:
    steps = [
        {"env": ENV, "args": {"command": SHOW, "shell": "bash"}},
        {"args": {"command": "echo ${{ secrets.TOKEN.replace('-', '_') }}; cat $0; cat /proc/$$/cmdline"}},
        {"args": {"command": 'echo "${{ jobs.one.outputs.made }}"'}},
        {"env": ENV, "args": {"command": 'echo "$MADE"; echo "$MADE" >&2; exit 3'}},
    ]
    run_id = server.trigger(server.pipeline("planted-runs", {"jobs": [job("one", *steps, env=OF_JOB)]}))
    view = await finished(server, run_id)
    assert view["status"] == "failed"
    assert view["jobs"][0]["steps"][0]["status"] == "succeeded", (
        view["jobs"][0]["steps"][0],
        server.call("GET", f"/workflow-runs/{run_id}/logs").text,
    )
    read_back(server, run_id)
    again = server.ask("POST", f"/workflow-runs/{run_id}/rerun", json={"from": "failed"})
    read_back(server, (await finished(server, str(again["id"])))["id"])


@pytest.mark.parametrize(
    "bad",
    [
        "int(secrets.TOKEN)",
        "timestamp(secrets.TOKEN)",
        "secrets.TOKEN + 1",
        "[1, 2][int(secrets.PIN)]",
        "{'a': 1}[secrets.TOKEN]",
        "'x'.matches(secrets.TOKEN + '(')",
        "int(secrets.PIN) * 9000000000000000000",
        "secrets.TOKEN.nothing",
        "secrets.KEY.split('').map(x, secrets.KEY.split('').map(y, secrets.KEY.split('')))",
    ],
)
async def test_expressions_that_fail(server: Server, secrets: dict[str, str], agent: Path, bad: str) -> None:
    spec = {"jobs": [job("one", {"args": {"command": f"echo ${{{{ {bad} }}}}"}})]}
    run_id = server.trigger(server.pipeline(f"planted-{uuid.uuid4()}", spec))
    assert (await finished(server, run_id))["status"] == "failed"
    read_back(server, run_id)


def test_specs_with_a_secret_in_a_wrong_place(
    server: Server, planted: Planted, secrets: dict[str, str]
) -> None:
    """Refused: what was refused is not stored and not logged. The answer may quote what the caller has sent."""
    server.http.event_hooks["response"].clear()
    token = secrets["TOKEN"]
    for spec in (
        {"jobs": [{"name": token, "steps": [{"name": "s", "uses": "shell", "args": {"command": "x"}}]}]},
        {"jobs": [{"name": "j", token: 1}]},
        {"jobs": [{"name": "j", "steps": [{"name": "s", "uses": token}]}]},
        {"jobs": [{"name": "j", "steps": [{"name": "s", "uses": "shell", "args": {token: token}}]}]},
        {"jobs": [{"name": "j", "timeout": token, "steps": []}]},
        {"variables": {token: token}, "jobs": token},
        f"jobs: [{{name: '{token}",
        f"jobs: ${{{{ {token} }}}}",
        token,
    ):
        for path in ("/pipelines/spec/validate",):
            assert server.call("POST", path, json={"spec": spec}).status_code < 500
        made = server.ask("POST", "/pipelines", json={"name": f"bad-{uuid.uuid4()}"})
        answer = server.call("POST", f"/pipelines/{made['pipelineId']}/spec/save", json={"spec": spec})
        assert answer.status_code == 400, spec
        server.call("POST", f"/pipelines/{made['pipelineId']}/trigger", json={"spec": spec})
        server.call("POST", f"/pipelines/{made['pipelineId']}/trigger", json={"variables": {"x": [token]}})
    planted.watch_answers(server)


# -- agents -----------------------------------------------------------------------------------------------


async def test_an_agent_that_shows_secrets_everywhere(
    server: Server, planted: Planted, secrets: dict[str, str]
) -> None:
    one = FakeAgent(server.grpc, "planted-fake")
    registration = planted.add("second registration token", server.registration_token())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await one.register(registration + "x")
    planted.search("grpc status", str(refused.value))
    await one.register(registration)
    planted.add("credential of an agent", one.token)
    await one.connect()
    token, following = secrets["TOKEN"], str(int(secrets["PIN"]) + 1)
    spec = {"jobs": [job("one", {"env": ENV, "args": {"command": "x"}}, env=OF_JOB)]}
    spec["jobs"][0]["steps"][0]["agentSelector"] = {"matchLabels": {"only": "planted-fake"}}
    pipeline = server.pipeline("planted-fake", spec)
    run_id = server.trigger(pipeline)
    task = await one.task()
    await one.ack(task)
    step = task.step_run_id
    await eventually(lambda: status(server, run_id) == "running")
    acks = [
        await one.push(batch(step, 1, [token, following], id=f"b-{token}")),
        await one.push(batch(step, 1, ["other"], id=f"c-{token}")),
        await one.push(batch(step, 2, f"{token}\n".encode(), id=token, raw_size=3)),
        await one.push(batch(step, 3, token.encode(), compression=2, raw_size=0)),
        await one.push(batch(step, 4, f'{{"content": 1, "level": "{token}"}}\n'.encode()), metadata=_NDJSON),
        await one.push(
            batch(step, 5, f'{{"content": "x", "level": "{following}", "stream": "{token}"}}\n'.encode()),
            metadata=_NDJSON,
        ),
        await one.push_events(
            (events((f"e-{token}", 1, step, "arcentra.step.progress", {"percent": 1, "message": token}))),
            events((f"f-{token}", 2, step, f"arcentra.step.{token}", {token: [following, {"x": token}]})),
            events(("g", 3, step, "arcentra.step.output", {"name": "o", "json": f'{{"{following}": 1}}'})),
            events(("h", 4, step, "arcentra.step.output", {"name": token, "value": token})),
            events(("i", 5, step, "arcentra.step.output", {"name": "p", "json": f'["{token}'})),
        ),
    ]
    for ack in acks:
        planted.search("ack", str(ack))
    for metadata in ((("authorization", f"Basic {one.token}"),), (("authorization", one.token),)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await one.call("agent.v1.AgentService/Heartbeat", metadata=metadata, agent_id="planted-fake")
        planted.search("grpc status", str(refused.value))
    await one.say(
        task_status={
            "step_run_id": step,
            "status": FAILED,
            "exit_code": 1,
            "error_message": f"cannot use {token} and {following}",
            "metrics": {token: following},
        }
    )
    await eventually(lambda: status(server, run_id) == "failed")
    read_back(server, run_id)
    second = server.trigger(pipeline)
    task = await one.task()
    await one.say(task_ack={"command_id": task.command_id, "status": 2, "message": f"not with {token}"})
    task = await one.task()
    await one.ack(task)
    await one.finish(task)
    await eventually(lambda: status(server, second) == "succeeded")
    read_back(server, second)
    server.call("GET", "/agents")
    await one.vanish()


_NDJSON = (("pilot-log-format", "ndjson"),)


# -- the command line -------------------------------------------------------------------------------------


def test_the_command_line(
    server: Server, planted: Planted, secrets: dict[str, str], agent: Path, tmp_path: Path
) -> None:
    password = planted.add("credentials of a repository", unmistakable("repo"))
    desk = Desk(tmp_path / "work", server.url, server.admin)
    desk.write(
        ".pilot.yaml",
        "jobs: [{name: j, steps: [{name: s, run: 'git remote -v; cat .git/config; echo $T',"
        " env: {T: '${{ secrets.TOKEN }}'}, agentSelector: {matchLabels: {only: planted}}}]}]",
    )
    desk.commit(origin=f"https://user:{password}@git.invalid/planted/repo.git")
    value = planted.add("secret of the command line", unmistakable("cli"))
    commands: list[tuple[tuple[str, ...], str]] = [
        (("secret", "set", "FROM_CLI"), value),
        (("secret", "set", "bad name"), value),
        (("secret", "set", "FROM_CLI"), value * 4000),
        (("secret", "list"), ""),
        (("pipeline", "run"), ""),
        (("run", "list", "--all"), ""),
        (("run", "view", "last"), ""),
        (("run", "logs", "last"), ""),
        (("config", "show"), ""),
        (("whoami",), ""),
        (("login", server.url, "-u", "admin", "--password-stdin"), value),
        (("--token", "wrong", "run", "list"), ""),
        (("-o", "json", "run", "view", "last"), ""),
        (("pipeline", "list"), ""),
    ]
    for words, given in commands:
        process = desk.start(*words, stdin=subprocess.PIPE)  # a process of its own: its arguments are watched
        out, err = process.communicate(given, timeout=2 * PATIENCE)
        planted.search(
            f"output of pilot {words[0]} {words[1]}" if len(words) > 1 else "output of pilot", out + err
        )
        if words == ("pipeline", "run"):
            assert process.returncode == 0, (out, err)


# -- the search -------------------------------------------------------------------------------------------


def test_nothing_of_it_is_found_anywhere(server: Server, planted: Planted, agent: Path) -> None:
    """The last test of this file: all others have left their traces."""
    for path in (
        "/audit",
        "/users",
        "/tokens?user=*",
        "/registration-tokens",
        "/agents",
        "/workflow-runs",
        "/pipelines",
    ):
        server.call("GET", path)
    server.call("GET", "/metrics", None)
    planted.search("server log", server.log())
    planted.search_tables(server)
    planted.search_files("server's files", [server.data_dir])
    planted.search_files("agent's log", [agent / "log"])
    # What an agent must keep: its credential, and the files of steps.
    kept = [path for path in (agent / "data").iterdir() if path.name in ("spool", "results", "log")]
    planted.search_files("agent's files", kept)
    searched = planted.searched
    assert searched["server log"] > 100
    assert searched["process arguments"] > 1000
    assert any(name.startswith("table audit") for name in searched), sorted(searched)
    assert any(name.startswith("agent's files") for name in searched), sorted(searched)
    assert planted.found == set()


def test_the_search_finds_what_is_there(planted: Planted, server: Server) -> None:
    """Each form, in a copy that knows the same values."""
    found = Planted()
    value = found.add("x", "Zq-value-/+'\"")
    for n, text in enumerate((value, value.upper(), value.encode().hex(), f'{{"a": "{value[:-1]}\\""}}')):
        found.search(str(n), text)
    assert found.found == {("x", str(n)) for n in range(4)}
    assert server.failures() == []
