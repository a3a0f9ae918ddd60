"""``/api/v1/triggers`` and ``pilot trigger`` against a real server: saved, fired, disabled, and by whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.bodies import TIME, UNKNOWN, plain_error
from support.desk import Desk
from support.server import Server, running
from support.waiting import eventually

NOTHING = {"jobs": [{"name": "j", "when": "false", "steps": [{"name": "s", "uses": "dummy"}]}]}
"""A run of it succeeds without an agent."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("triggers")) as server:
        yield server


def with_trigger(type: str, name: str = "t", **options: Any) -> dict[str, Any]:
    return {**NOTHING, "triggers": [{"type": type, "name": name, "options": options}]}


def trigger_of(server: Server, pipeline: str) -> dict[str, Any]:
    [found] = server.ask("GET", f"/triggers?pipeline={pipeline}")["triggers"]
    shown: dict[str, Any] = server.ask("GET", f"/triggers/{found['id']}")
    return shown


def runs_of(server: Server, pipeline: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.ask("GET", f"/workflow-runs?pipeline={pipeline}")["runs"]
    return found


async def test_every_minute_and_after_each_run_of_another(server: Server) -> None:
    minutely = server.pipeline("minutely", with_trigger("cron", schedule="* * * * *"))
    after = server.pipeline("after", with_trigger("event", events=["run.completed"], pipeline="minutely"))
    shown = trigger_of(server, minutely)
    assert TIME.fullmatch(shown["next_at"])
    assert (shown["enabled"], shown["by"], shown["fired"], shown["fires"]) == (True, "admin", 0, [])
    await eventually(lambda: runs_of(server, minutely), 180)
    [caused] = await eventually(lambda: runs_of(server, after))
    assert (caused["trigger"], caused["status"]) in (("event", "succeeded"), ("event", "running"))
    [fire] = trigger_of(server, minutely)["fires"]
    assert fire["due_at"] == shown["next_at"]
    assert fire["run_id"] == runs_of(server, minutely)[-1]["id"]
    assert trigger_of(server, after)["fires"][-1]["cause"] == fire["run_id"]
    listed = server.ask("GET", f"/pipelines/{minutely}/runs")["list"]
    assert listed[-1]["triggerType"] == 2


def test_who_may_do_what(server: Server) -> None:
    project = server.project("triggers")
    reader, user = server.user("rita", "viewer", [project]), server.user("uwe", "user", [project])
    outsider = server.user("otto", "user", [])
    pipeline = server.pipeline("yearly", with_trigger("cron", schedule="0 3 1 1 *"), project=project)
    id = trigger_of(server, pipeline)["id"]
    assert server.ask("GET", f"/triggers/{id}", token=reader)["pipeline"] == "yearly"
    assert server.ask("GET", "/triggers", token=outsider)["triggers"] == []
    for path in (f"/triggers/{id}", f"/triggers/{UNKNOWN}"):
        plain_error(server.call("GET", path, token=outsider), 404, "TRIGGER_NOT_FOUND")
    for word in ("enable", "disable", "run"):
        plain_error(server.call("POST", f"/triggers/{id}/{word}", token=outsider), 404, "TRIGGER_NOT_FOUND")
        plain_error(
            server.call("POST", f"/triggers/{id}/{word}", token=reader), 403, "AUTH_INSUFFICIENT_PERMISSIONS"
        )
    off = server.ask("POST", f"/triggers/{id}/disable", token=user)
    assert (off["enabled"], off["next_at"], off["by"]) == (False, None, "admin")
    on = server.ask("POST", f"/triggers/{id}/enable", token=user)
    assert (on["enabled"], on["by"]) == (True, "uwe")
    started = server.ask("POST", f"/triggers/{id}/run", token=user)["run_id"]
    [run] = runs_of(server, pipeline)
    assert (run["id"], run["trigger"], run["triggered_by"]) == (started, "manual", "uwe")
    actions = [entry["action"] for entry in server.ask("GET", "/audit")["entries"] if entry["target"] == id]
    assert actions == ["trigger.enable", "trigger.disable"]


def test_inputs_and_request_ids(server: Server) -> None:
    inputs = [{"name": "where", "type": "choice", "choices": ["here", "there"]}]
    pipeline = server.pipeline("asked", with_trigger("manual", inputs=inputs))
    path = f"/pipelines/{pipeline}/trigger"
    for wrong in ({}, {"where": "nowhere"}, {"where": "here", "other": "x"}):
        answer = server.call("POST", path, json={"variables": wrong})
        assert (answer.status_code, answer.json()["code"]) == (400, 400)
    body = {"variables": {"where": "here"}, "requestId": "once"}
    first, again = (server.ask("POST", path, json=body)["runId"] for _ in range(2))
    assert first == again
    other = server.call("POST", path, json=body | {"branch": "main"})
    assert other.status_code == 409
    checked = {"spec": with_trigger("manual", inputs=inputs), "variables": {"where": "nowhere"}}
    assert server.call("POST", "/pipelines/spec/validate", json=checked).status_code == 400


def test_pilot_trigger(server: Server, tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk", server.url, server.admin)
    server.pipeline("shop", with_trigger("cron", "nightly", schedule="0 3 1 1 *", variables={"a": "1"}))
    listed = desk.good("trigger", "list", "--pipeline", "shop")
    assert "0 3 1 1 * UTC" in listed
    [found] = json.loads(desk.good("trigger", "list", "--pipeline", "shop", "-o", "json"))
    for given in (found["id"], "nightly", "shop", "shop/nightly"):
        assert json.loads(desk.good("trigger", "view", given, "-o", "json"))["id"] == found["id"]
    assert "It has not fired yet." in desk.pilot("trigger", "view", "shop/nightly").stderr
    assert f"Trigger {found['id']} is disabled." in desk.pilot("trigger", "disable", "shop").stderr
    assert "disabled" in desk.good("trigger", "list", "--pipeline", "shop")
    assert "is enabled; next run" in desk.pilot("trigger", "enable", "shop").stderr
    run_id = desk.good("trigger", "run", "shop/nightly", "--detach").strip()
    assert server.ask("GET", f"/workflow-runs/{run_id}")["variables"] == {"a": "1"}
    refused = desk.pilot("trigger", "view", "shop/weekly")
    assert refused.returncode == 1
    assert "there is no trigger 'shop/weekly'" in refused.stderr
