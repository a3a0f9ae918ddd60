"""Pipelines over REST: what of pipeline.v1 is taken, what is refused, and how they are found."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.bodies import enveloped_error, success
from support.fake_agent import registered
from support.server import Server, spec_for
from support.waiting import eventually


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


OF_GIT = [("prTargetBranch", "main"), ("saveMode", 2), ("repoSecret", "FORGE")]
NO_ENUM = [9, -1, True, "1", 1.5]


def _refused(server: Server, method: str, path: str, body: dict[str, Any], field: str) -> None:
    found = enveloped_error(server.call(method, path, json=body), 400)
    assert (found["errorCode"], found["details"]["field"]) == ("VALIDATION_FAILED", field), body


def test_what_belongs_to_git_is_refused_without_a_repository(server: Server) -> None:
    """A value that would be dropped is no success."""
    pipeline_id = server.pipeline("no-git", spec_for("x"))
    for field, value in OF_GIT:
        _refused(server, "POST", "/pipelines", {"name": "refused", field: value}, field)
        _refused(server, "PUT", f"/pipelines/{pipeline_id}", {field: value}, field)
    saving = {"spec": spec_for("y"), "saveMode": 2}
    _refused(server, "POST", f"/pipelines/{pipeline_id}/spec/save", saving, "saveMode")
    shown = server.ask("GET", f"/pipelines/{pipeline_id}")
    back = {key: shown[key] for key in ("repoUrl", "prTargetBranch", "saveMode", "description", "isEnabled")}
    success(server.call("PUT", f"/pipelines/{pipeline_id}", json=back))


@pytest.mark.parametrize("value", NO_ENUM)
def test_numbers_that_are_no_enum(server: Server, value: Any) -> None:
    pipeline_id = server.pipeline(f"enum {value}", spec_for("x"))
    _refused(server, "POST", "/pipelines", {"name": "refused", "saveMode": value}, "saveMode")
    _refused(server, "PUT", f"/pipelines/{pipeline_id}", {"saveMode": value}, "saveMode")
    body = {"spec": spec_for("x")}
    _refused(server, "POST", f"/pipelines/{pipeline_id}/spec/save", {**body, "saveMode": value}, "saveMode")
    for path in ("/pipelines/spec/validate", f"/pipelines/{pipeline_id}/spec/validate"):
        _refused(server, "POST", path, {**body, "format": value}, "format")


def test_pipelines_by_status(server: Server) -> None:
    """A pipeline has the status of its newest run."""
    project = server.project("by-status")
    fresh, waits, gone = (server.pipeline(name, spec_for("nobody"), project=project) for name in "abc")
    server.trigger(waits)
    runs = [server.trigger(gone), server.trigger(gone)]
    server.ask("POST", f"/pipelines/{gone}/runs/{runs[1]}/stop")

    def found(status: int) -> list[str]:
        detail = server.ask("GET", f"/pipelines?projectId={project}&status={status}")
        assert detail["total"] == len(detail["list"])
        return [pipeline["pipelineId"] for pipeline in detail["list"]]

    assert [found(status) for status in range(7)] == [[fresh, waits, gone], [], [waits], [], [], [gone], []]
    for bad in ("7", "-1", "running", ""):
        answer = enveloped_error(server.call("GET", f"/pipelines?status={bad}"), 400)
        assert answer["errorCode"] == "INVALID_PARAMETER"


async def test_a_run_that_goes_on_has_lasted_so_far(server: Server) -> None:
    """Milliseconds, which grow until it ends."""
    pipeline_id = server.pipeline("lasting", spec_for("lasting"))
    async with await registered(server, "lasting", labels={"only": "lasting"}):
        run_id = server.trigger(pipeline_id)
        path = f"/pipelines/{pipeline_id}/runs"
        first = await eventually(lambda: server.ask("GET", f"{path}/{run_id}")["duration"] or None)
        later = await eventually(
            lambda: next((d for r in server.ask("GET", path)["list"] if (d := r["duration"]) > first), None)
        )
        server.ask("POST", f"{path}/{run_id}/stop")
    ended = await eventually(lambda: r if (r := server.ask("GET", f"{path}/{run_id}"))["endTime"] else None)
    assert ended["duration"] >= later
    assert ended["duration"] == server.ask("GET", f"{path}/{run_id}")["duration"]


@pytest.mark.parametrize("path", ["/pipelines/spec/validate", "/pipelines/{id}/spec/save"])
def test_a_spec_that_takes_long_to_parse_blocks_no_one(server: Server, path: str) -> None:
    """Neither requests that need no more than the event loop, nor those that write."""
    pipeline_id = server.pipeline(f"slow to read {path[-4:]}", spec_for("x"))
    slow = {"spec": "jobs:\n" + "  - {name: a, steps: []}\n" * 19_000}
    server.ask("PUT", "/secrets/PROBE", json={"value": "the first"})
    longest = 0.0
    with ThreadPoolExecutor(1) as thread:
        began = time.monotonic()
        reading = thread.submit(server.call, "POST", path.format(id=pipeline_id), json=slow)
        while not reading.done():
            asked = time.monotonic()
            success(server.call("PUT", "/secrets/PROBE", json={"value": f"value {asked}"}))
            longest = max(longest, time.monotonic() - asked)
        whole = time.monotonic() - began
        enveloped_error(reading.result(), 400)
    assert longest < whole / 2, (longest, whole)


@pytest.mark.parametrize("field", ["branch", "tag", "commitSha"])
@pytest.mark.parametrize("word", ["a\0b", "a\nb", "\x1b[2J"])
def test_what_steps_find_in_their_environment_is_plain_text(server: Server, field: str, word: str) -> None:
    pipeline_id = server.pipeline(f"plain {field}", spec_for("x"))
    _refused(server, "POST", f"/pipelines/{pipeline_id}/trigger", {field: word}, field)
    server.ask("DELETE", f"/pipelines/{pipeline_id}")
