"""Approvals of N users with a real server and a real agent: who counts, how they end, and what follows them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.bodies import plain_error
from support.desk import Desk
from support.real_agent import agent
from support.server import Server, running
from support.waiting import eventually

NAME = "approvals"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With an agent of its own: a server of this file alone, since it is restarted."""
    place = tmp_path_factory.mktemp("approvals")
    with running(place) as server, agent(server, NAME, place / "agent"):
        yield server


@pytest.fixture(scope="module")
def project(server: Server) -> str:
    return server.project("approvals")


@pytest.fixture(scope="module")
def people(server: Server, project: str) -> dict[str, str]:
    """Tokens by name: two operators, users of the project, a viewer of it, and a user of none."""
    tokens = {name: server.user(name, "operator", []) for name in ("olga", "oscar")}
    tokens |= {name: server.user(name, "user", [project]) for name in ("ann", "bob", "cleo")}
    tokens["vera"] = server.user("vera", "viewer", [project])
    tokens["otto"] = server.user("otto", "user", [])
    return tokens


def work(name: str, command: str = "true", **more: Any) -> dict[str, Any]:
    return {"name": name, "run": command, "agentSelector": {"matchLabels": {"only": NAME}}, **more}


def start(server: Server, project: str, *jobs: dict[str, Any], token: str = "admin") -> str:
    pipeline = server.pipeline(f"approvals-{next(_numbers)}", {"jobs": list(jobs)}, project=project)
    return server.trigger(pipeline, token)


def deploy(*steps: dict[str, Any], name: str = "deploy", **params: Any) -> dict[str, Any]:
    """A job that waits for approval."""
    return {"name": name, "approval": {"required": True, "params": params}, "steps": list(steps)}


def view(server: Server, run_id: str) -> Any:
    return server.ask("GET", f"/workflow-runs/{run_id}")


def steps(server: Server, run_id: str) -> dict[str, Any]:
    return {step["name"]: step for job in view(server, run_id)["jobs"] for step in job["steps"]}


async def gate_of(server: Server, run_id: str) -> Any:
    """The run's only open gate, once there is one."""

    def opened() -> Any:
        return server.ask("GET", f"/gates?run={run_id}&status=open&kind=hold")["gates"]

    return (await eventually(opened))[0]


async def ended(server: Server, run_id: str) -> Any:
    await eventually(lambda: view(server, run_id)["finished_at"])
    return view(server, run_id)


def decide(
    server: Server, gate: Any, token: str, decision: str = "approve", comment: str = "", **headers: str
) -> Any:
    body = {"decision": decision, "comment": comment}
    return server.call("POST", f"/gates/{gate['id']}", token, json=body, headers=headers)


def told(desk: Desk, *words: str) -> str:
    """What a command that must succeed says."""
    done = desk.pilot(*words)
    assert done.returncode == 0, done.stderr
    return done.stderr


async def test_two_of_three_by_different_users(server: Server, project: str, people: dict[str, str]) -> None:
    asked = deploy(
        work("ship", "echo by ${{ job.outputs.by }}"), count=2, users=["ann", "bob", "cleo"], message="now?"
    )
    run_id = start(server, project, asked, token=people["ann"])
    gate = await gate_of(server, run_id)
    waits = "approvals: needs user ann or user bob or user cleo: now?"
    assert (gate["job"], gate["step"], gate["count"], gate["approvals"]) == ("deploy", "approval", 2, [])
    assert steps(server, run_id)["approval"]["reason"] == gate["waits_for"] == f"waits for 2 of 2 {waits}"
    for name, status, code in (
        ("vera", 403, "AUTH_INSUFFICIENT_PERMISSIONS"),
        ("olga", 403, "AUTH_INSUFFICIENT_PERMISSIONS"),
        ("otto", 404, "GATE_NOT_FOUND"),
    ):
        plain_error(decide(server, gate, people[name]), status, code)
        plain_error(decide(server, gate, people[name], "reject"), status, code)
    for _ in range(2):  # the same user twice counts once
        answer = decide(server, gate, people["ann"], comment="fine").json()
        assert (answer["status"], [one["by"] for one in answer["approvals"]]) == ("open", ["ann"])
    again = server.login("ann")
    assert decide(server, gate, again).json()["waits_for"] == f"waits for 1 of 2 {waits}"
    assert steps(server, run_id)["approval"]["reason"] == f"waits for 1 of 2 {waits}"
    assert steps(server, run_id)["ship"]["status"] == "pending"
    key = {"Idempotency-Key": "second"}
    first, repeated = (decide(server, gate, people["bob"], comment="go", **key) for _ in range(2))
    assert first.json() == repeated.json()
    assert (first.json()["status"], first.json()["decided_by"]) == ("approved", "bob")
    plain_error(decide(server, gate, people["cleo"], "reject"), 409, "GATE_CLOSED")
    run = await ended(server, run_id)
    assert run["status"] == "succeeded"
    outputs = steps(server, run_id)["approval"]["outputs"]
    assert (outputs["by"], outputs["comment"]) == ("ann, bob", "go")
    assert [(one["by"], one["comment"]) for one in outputs["approvals"]] == [("ann", "fine"), ("bob", "go")]
    assert outputs["approvals"][0]["at"] <= outputs["approvals"][1]["at"] == outputs["at"]
    assert "by ann, bob" in server.call("GET", f"/workflow-runs/{run_id}/logs").text
    audited = [e for e in server.ask("GET", "/audit?limit=100")["entries"] if e["target"] == gate["id"]]
    assert [entry["actor"]["name"] for entry in audited] == ["bob", "ann"]


async def test_an_identity_comes_from_nothing_but_the_token(
    server: Server, project: str, people: dict[str, str]
) -> None:
    run_id = start(server, project, deploy(count=2, users=["ann", "bob"]))
    gate = await gate_of(server, run_id)
    for name in ("by", "user", "decided_by"):
        body = {"decision": "approve", name: "bob"}
        answer = server.call("POST", f"/gates/{gate['id']}", people["ann"], json=body)
        assert answer.status_code in (200, 400)
        if answer.status_code == 200:
            assert [one["by"] for one in answer.json()["approvals"]] == ["ann"]
    assert server.ask("GET", f"/gates/{gate['id']}")["status"] == "open"
    token = server.registration_token()
    assert server.call("POST", f"/gates/{gate['id']}", token, json={"decision": "approve"}).status_code == 401


async def test_who_lost_the_role_or_the_project_no_longer_counts(
    server: Server, project: str, people: dict[str, str]
) -> None:
    leaver, fallen = server.user("leaver", "user", [project]), server.user("fallen", "operator", [])
    run_id = start(server, project, deploy(work("ship"), count=3, roles=["operator"], users=["leaver"]))
    gate = await gate_of(server, run_id)
    assert [decide(server, gate, token).json()["status"] for token in (leaver, fallen)] == ["open", "open"]
    server.ask("PATCH", "/users/fallen", json={"role": "user"})
    server.ask("DELETE", f"/projects/{project}/members/{server.ask('GET', '/users/leaver')['id']}")
    third = decide(server, gate, people["olga"]).json()
    assert (third["status"], [one["by"] for one in third["approvals"]]) == ("open", ["olga"])
    assert "waits for 2 of 3 approvals" in steps(server, run_id)["approval"]["reason"]
    server.ask("PATCH", "/users/fallen", json={"role": "operator"})
    decide(server, gate, server.login("fallen"))
    assert decide(server, gate, people["oscar"]).json()["status"] == "approved"
    assert steps(server, run_id)["approval"]["outputs"]["by"] == "olga, fallen, oscar"
    assert (await ended(server, run_id))["status"] == "succeeded"
    entries = [
        e
        for e in server.ask("GET", "/audit?limit=100")["entries"]
        if e["target"] == gate["id"] and e["actor"]["name"] == "olga"
    ]
    assert entries[0]["detail"]["no_longer_counted"] == ["leaver", "fallen"]


async def test_a_rejection_ends_it_and_nothing_of_the_job_runs(
    server: Server, project: str, people: dict[str, str]
) -> None:
    asked = deploy(work("ship"), work("tell", when="always()"), count=2, roles=["operator"])
    run_id = start(server, project, asked | {"retry": {"maxAttempts": 3}})
    gate = await gate_of(server, run_id)
    decide(server, gate, people["olga"])
    assert decide(server, gate, people["oscar"], "reject", "not on a Friday").json()["status"] == "rejected"
    run = await ended(server, run_id)
    found = steps(server, run_id)
    assert (run["status"], run["reason"]) == ("failed", "failed: deploy")
    assert found["approval"]["reason"] == "rejected by oscar: not on a Friday"
    assert [found[name]["status"] for name in ("approval", "ship", "tell")] == [
        "failed",
        "skipped",
        "skipped",
    ]
    plain_error(decide(server, gate, people["olga"]), 409, "GATE_CLOSED")


async def test_a_deadline_survives_a_restart_and_so_do_approvals(
    server: Server, project: str, people: dict[str, str]
) -> None:
    kept = start(
        server, project, deploy(work("ship"), count=2, roles=["operator"], timeout="1h") | {"timeout": "2s"}
    )
    gate = await gate_of(server, kept)
    decide(server, gate, people["olga"])
    expiring = start(server, project, deploy(work("ship"), count=2, timeout="3s"))
    soon = await gate_of(server, expiring)
    decide(server, soon, people["olga"])
    server.kill9()
    server.restart()
    assert [(await gate_of(server, kept))[key] for key in ("deadline", "approvals")] == [
        gate["deadline"],
        [{"by": "olga", "at": server.ask("GET", f"/gates/{gate['id']}")["approvals"][0]["at"]}],
    ]
    run = await ended(server, expiring)
    step = steps(server, expiring)["approval"]
    assert (run["status"], step["status"]) == ("failed", "timed_out")
    assert step["reason"] == "expired: 1 of 2 approvals in time"
    plain_error(decide(server, soon, people["oscar"]), 409, "GATE_CLOSED")
    # The job's timeout of two seconds has stood still: it has waited for longer than that.
    assert decide(server, gate, people["oscar"]).json()["status"] == "approved"
    assert (await ended(server, kept))["status"] == "succeeded"


async def test_a_cancel_while_it_waits_and_a_rerun_that_asks_anew(
    server: Server, project: str, people: dict[str, str]
) -> None:
    run_id = start(server, project, deploy(work("ship"), work("tell", when="always()"), count=2))
    gate = await gate_of(server, run_id)
    decide(server, gate, people["olga"])
    server.ask("POST", f"/workflow-runs/{run_id}/cancel")
    assert (await ended(server, run_id))["status"] == "cancelled"
    found = steps(server, run_id)
    assert [found[name]["status"] for name in ("approval", "tell")] == ["cancelled"] * 2
    plain_error(decide(server, gate, people["oscar"]), 409, "GATE_CLOSED")
    again = server.ask("POST", f"/workflow-runs/{run_id}/rerun")["id"]
    anew = await gate_of(server, again)
    assert (anew["id"] != gate["id"], anew["approvals"]) == (True, [])
    decide(server, anew, people["olga"])
    decide(server, anew, people["oscar"])
    assert (await ended(server, again))["status"] == "succeeded"


async def test_a_rerun_from_the_failed_step_asks_anew(
    server: Server, project: str, people: dict[str, str], tmp_path: Path
) -> None:
    once = f"test -e {tmp_path}/done || {{ touch {tmp_path}/done; exit 1; }}"
    run_id = start(server, project, deploy(work("ship", "echo shipped"), work("tell", once)))
    decide(server, await gate_of(server, run_id), people["olga"])
    assert (await ended(server, run_id))["status"] == "failed"
    again = server.ask("POST", f"/workflow-runs/{run_id}/rerun", json={"from": "failed"})["id"]
    gate = await gate_of(server, again)
    assert steps(server, again)["ship"]["kept"]
    assert steps(server, again)["tell"]["status"] == "pending"
    decide(server, gate, people["oscar"])
    assert (await ended(server, again))["status"] == "succeeded"
    assert steps(server, again)["approval"]["outputs"]["by"] == "oscar"


async def test_the_example_and_the_commands(
    server: Server, project: str, people: dict[str, str], tmp_path: Path
) -> None:
    """The example in examples/approval, run and approved with ``pilot``."""
    text = (Path(__file__).parents[2] / "examples/approval/.pilot.yaml").read_text()
    made = server.ask("POST", "/pipelines", json={"name": "approval example", "projectId": project})
    server.ask("POST", f"/pipelines/{made['pipelineId']}/spec/save", json={"spec": text})
    run_id = server.trigger(made["pipelineId"])
    ann, olga = (Desk(tmp_path / name, server.url, people[name]) for name in ("ann", "olga"))
    await gate_of(server, run_id)
    listed = ann.good("run", "approvals", "--mine")
    assert "build/looks-right" in listed
    assert run_id in listed
    assert "Does the build of 1.4 look right?" in ann.good("run", "view", run_id)
    assert "is approved" in told(ann, "run", "approve", run_id, "--job", "build", "-m", "looks fine")
    await gate_of(server, run_id)
    refused = ann.pilot("run", "approve", run_id)
    assert refused.returncode != 0
    assert "role admin or role operator" in refused.stderr
    assert "waits for 1 of 2 approvals" in told(olga, "run", "approve", run_id, "--step", "deploy/approval")
    shown = olga.good("run", "view", run_id)
    assert "waits for 1 of 2 approvals: needs role admin or role operator: Deploy 1.4?" in shown
    assert f"pilot run approve {run_id[-8:]}" in shown
    assert "approved by ann (looks fine)" in shown
    admin = Desk(tmp_path / "admin", server.url, server.admin)
    assert "is rejected" in told(admin, "run", "approve", run_id, "--reject", "-m", "no")
    assert (await ended(server, run_id))["status"] == "failed"
    assert "rejected by admin: no" in admin.good("run", "view", run_id)
    nothing = admin.pilot("run", "approve", run_id)
    assert "no gate of run" in nothing.stderr
