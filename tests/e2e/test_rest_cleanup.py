"""Cancelling by force, and what a trigger refuses, over REST."""

from __future__ import annotations

from typing import Any

import pytest

from support.fake_agent import FAILED, registered
from support.server import Server, spec_for
from support.waiting import eventually


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


SPEC = """\
variables: {tag: "1"}
jobs:
  - name: build
    steps:
      - name: push
        uses: dummy
        env:
          TOKEN: "Bearer ${{ secrets.NOT_THERE }}"
        args: {text: "${{ variables.tga }}"}
"""


def problems(server: Server, pipeline: str, **body: Any) -> list[tuple[int, str]]:
    answer = server.call("POST", f"/pipelines/{pipeline}/trigger", json=body)
    assert (answer.status_code, answer.json()["errorCode"]) == (400, "SPEC_INVALID")
    return [(problem["line"], problem["message"]) for problem in answer.json()["details"]["problems"]]


def steps(server: Server, run_id: str) -> list[str]:
    """The statuses of the steps of the first job."""
    view = server.ask("GET", f"/workflow-runs/{run_id}")
    return [step["status"] for step in view["jobs"][0]["steps"]]


@pytest.mark.parametrize("saved", [True, False])
def test_a_trigger_reports_what_is_missing_and_creates_no_run(server: Server, saved: bool) -> None:
    pipeline = server.pipeline(f"names-{saved}", SPEC if saved else spec_for("nobody"))
    body: dict[str, Any] = {} if saved else {"spec": SPEC, "fileName": ".pilot.yaml"}
    step = 'step "push" of job "build"'
    assert problems(server, pipeline, **body) == [
        (9, f'{step} uses variable "tga", which has no value; did you mean "tag"?'),
        (8, f'{step} needs secret "NOT_THERE", which this project does not have'),
    ]
    server.ask("PUT", "/secrets/NOT_THERE", json={"value": "hunter2-hunter2"})
    try:
        assert problems(server, pipeline, variables={"tga": "1", "tgaa": "2"}, **body) == [
            (0, 'variable "tgaa" is given, but nothing in the spec uses it; did you mean "tga"?')
        ]
        runs = server.ask("GET", f"/pipelines/{pipeline}/runs")
        assert runs["total"] == 0
        server.trigger(pipeline, variables={"tga": "1"}, **body)
    finally:
        server.ask("DELETE", "/secrets/NOT_THERE")


@pytest.mark.parametrize("path", ["/workflow-runs/{run}/cancel", "/pipelines/{pipeline}/runs/{run}/stop"])
async def test_a_cancel_is_forced_by_asking_again(server: Server, path: str) -> None:
    name = f"forced-{'stop' in path}"
    spec = spec_for(name, "work", "tidy")
    spec["jobs"][0]["steps"][1]["when"] = "always()"
    agent = await registered(server, name)
    try:
        pipeline = server.pipeline(name, spec)
        run = server.trigger(pipeline)
        path = path.format(run=run, pipeline=pipeline)
        work = await agent.task()
        await agent.ack(work)
        await eventually(
            lambda: server.ask("GET", f"/workflow-runs/{run}")["jobs"][0]["begun_at"] is not None
        )
        server.ask("POST", path, json={"reason": "wrong branch"})
        await eventually(lambda: work.step_run_id in agent.cancelled)
        view = server.ask("GET", f"/workflow-runs/{run}")
        assert (view["status"], view["reason"], view["cleanup_until"] is None) == (
            "running",
            "cancelling",
            False,
        )
        await agent.finish(work, FAILED, exit_code=143)
        tidy = await agent.task()
        await agent.ack(tidy)
        await eventually(lambda: steps(server, run)[1] == "running")
        assert server.call("POST", path, json={"force": "perhaps"}).status_code == 400
        server.ask("POST", path, json={"force": True})
        await eventually(lambda: tidy.step_run_id in agent.cancelled)
        await agent.finish(tidy, FAILED, exit_code=143)
        await eventually(lambda: server.ask("GET", f"/workflow-runs/{run}")["status"] == "cancelled")
        view = server.ask("GET", f"/workflow-runs/{run}")
        assert view["reason"] == "wrong branch"
        assert steps(server, run) == ["cancelled", "cancelled"]
    finally:
        await agent.vanish()
