"""Specs as expensive as they can be: neither the event loop nor the writer works on them for long."""

from __future__ import annotations

import json
import statistics
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from pilothouse.engine.transitions import MAX_SECONDS
from support.faults.effort import MILLISECOND, unit
from support.loop_probe import Local, local_server
from support.server import spec_for
from support.waiting import eventually

PAUSE = 0.05
"""Seconds of CPU time of one callback, on an idle machine."""
WRITING = 3 * MAX_SECONDS
"""Seconds of CPU time of one use case: the slice of a settle, and what creating a run of 5,000 steps costs."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Local]:
    async with local_server(tmp_path_factory.mktemp("hostile")) as local:
        yield local


pytestmark = pytest.mark.asyncio(loop_scope="module")


def expressions() -> str:
    """As many expressions, steps and characters as a spec may have."""
    lines = ["jobs:\n"]
    for job in range(100):
        lines.append(f"  - name: job-{job}\n    steps:\n")
        for step in range(50):
            given = f"size(variables.A) > {job} && variables.B == 'x{step}'"
            lines.append(f"      - name: step-{step}\n        run: 'echo x'\n")
            lines.append("        agentSelector: {matchLabels: {only: nobody}}\n")
            lines.append(f'        env: {{A: "${{{{ {given} }}}}"}}\n')
    return "".join(lines)


def aliases() -> str:
    return "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
    )


SPECS: dict[str, Any] = {
    "expressions": expressions(),
    "aliases": aliases(),
    "700,000 lists": {"jobs": [[]] * 600_000},
    "200,000 keys": {f"{n:x}": 1 for n in range(190_000)},
    "deep": "[" * 500_000 + "]" * 500_000,
    "one line": "a: '" + "x" * 1_000_000 + "'",
    "commas": "a: [" + "," * 1_000_000,
    "lines": "\n" * 1_000_000,
    "comments": "# x\n" * 250_000,
    "numbers": {"jobs": list(range(250_000))},
    "wrong steps": {"jobs": [{"name": "a", "steps": [{"x": n} for n in range(90_000)]}]},
}


def bounds_held(local: Local) -> None:
    """CPU time, too, is longer where others use the same caches and cores: a fixed piece of work says how much."""
    slow = max(1.0, statistics.median(unit() for _ in range(5)) / MILLISECOND)
    print(
        f"loop {local.probe.longest * 1000:.0f} ms, writer {local.probe.writing * 1000:.0f} ms, {slow:.1f} times slower"
    )
    assert local.probe.longest < PAUSE * slow, local.probe.which
    assert local.probe.writing < WRITING * slow


async def sent(local: Local, path: str, body: dict[str, Any], **headers: str) -> int:
    """Encoded before the measurement begins; the status of the answer."""
    content = json.dumps(body, separators=(",", ":")).encode()
    await local.call("GET", "/roles")
    local.probe.reset()
    answer = await local.call(
        "POST", path, content=content, headers={"Content-Type": "application/json", **headers}
    )
    assert answer.status_code in (200, 201, 400), answer.text[:300]
    return answer.status_code


@pytest.mark.parametrize("name", SPECS)
async def test_every_way_in(local: Local, name: str) -> None:
    spec = SPECS[name]
    made = await local.ask("POST", "/pipelines", json={"name": f"hostile {name.replace(',', '')}"})
    path = f"/pipelines/{made['pipelineId']}"
    variables = {"A": "a", "B": "b"} if name == "expressions" else {}
    ways = {
        "/pipelines/spec/validate": {"spec": spec, "variables": variables},
        f"{path}/spec/validate": {"spec": spec},
        f"{path}/spec/save": {"spec": spec},
        f"{path}/trigger": {"spec": spec, "variables": variables},
    }
    for way, body in ways.items():
        status = await sent(local, way, body, **{"Idempotency-Key": f"{name.replace(' ', '-')}"})
        bounds_held(local)
        assert (status < 400) == (name == "expressions"), way


async def test_what_is_saved_is_not_parsed_again(local: Local) -> None:
    """Triggered, shown and run again, also from the failed step."""
    made = await local.ask("POST", "/pipelines", json={"name": "saved expressions"})
    path = f"/pipelines/{made['pipelineId']}"
    assert await sent(local, f"{path}/spec/save", {"spec": SPECS["expressions"]}) == 200
    variables = {"A": "a", "B": "b"}
    assert await sent(local, f"{path}/trigger", {"variables": variables}) == 201
    bounds_held(local)
    listed = await local.ask("GET", f"{path}/runs")
    run_id = listed["list"][0]["runId"]
    await local.ask("POST", f"/workflow-runs/{run_id}/cancel", json={"force": True})

    async def ended() -> bool:
        return bool((await local.ask("GET", f"{path}/runs"))["list"][0]["endTime"])

    await eventually(ended)
    for start in ("start", "failed"):
        assert await sent(local, f"/workflow-runs/{run_id}/rerun", {"from": start}) == 201
        bounds_held(local)
    local.probe.reset()
    assert (await local.call("GET", f"{path}/spec")).status_code == 200
    bounds_held(local)


NUMBERS = f"[{','.join(map(str, range(40)))}]"
EXPENSIVE = {
    "nested lists": f"{NUMBERS}.all(x, {NUMBERS}.all(y, x + y >= 0)) && {{n}} < 0",
    "growing texts": "size([1,2,3,4,5].map(x, variables.A.replace('x', 'xxxxxxxxxxxxxxxxxxxx'))) == {n} - 1000",
    "patterns": "[1,2,3,4,5,6,7].exists(x, variables.A.matches('(x+x+)+y{n}'))",
}


@pytest.mark.parametrize("name", EXPENSIVE)
async def test_conditions_share_one_budget_and_fail_their_run_alone(local: Local, name: str) -> None:
    jobs = [
        {**spec_for("nobody")["jobs"][0], "name": f"job-{n}", "when": EXPENSIVE[name].replace("{n}", str(n))}
        for n in range(400 if name == "nested lists" else 900)
    ]
    made = await local.ask("POST", "/pipelines", json={"name": f"conditions {name}"})
    body = {
        "spec": {"jobs": jobs},
        "variables": {"A": "x" * 2000} if "variables.A" in EXPENSIVE[name] else {},
    }
    assert await sent(local, f"/pipelines/{made['pipelineId']}/trigger", body) == 201
    path = f"/pipelines/{made['pipelineId']}/runs"

    async def ended() -> bool:
        return bool((await local.ask("GET", path))["list"][0]["endTime"])

    await eventually(ended)
    bounds_held(local)
    run_id = (await local.ask("GET", path))["list"][0]["runId"]
    view = await local.ask("GET", f"/workflow-runs/{run_id}?job=job-{len(jobs) - 1}")
    assert view["status"] == "failed"
    assert "conditions of this run take too long" in view["jobs"][0]["reason"]
    first = await local.ask("GET", f"/workflow-runs/{run_id}?job=job-1")
    assert first["jobs"][0]["reason"].startswith("when is false"), "the first ones are evaluated"


async def test_the_arguments_of_a_gate_have_a_budget(local: Local) -> None:
    many = {f"k{n}": f"${{{{ {NUMBERS}.map(x, x + {n}) }}}}" for n in range(300)}
    step = {
        "name": "ask",
        "uses": "approval",
        "action": "wait",
        "args": {"message": "x", "users": list(many.values())},
    }
    spec = {"jobs": [{"name": "a", "steps": [step]}]}
    made = await local.ask("POST", "/pipelines", json={"name": "gate arguments"})
    assert await sent(local, f"/pipelines/{made['pipelineId']}/trigger", {"spec": spec}) == 201
    bounds_held(local)
    run_id = (await local.ask("GET", f"/pipelines/{made['pipelineId']}/runs"))["list"][0]["runId"]
    view = await local.ask("GET", f"/workflow-runs/{run_id}")
    assert view["status"] == "failed"
    assert "the bound is 32768" in view["jobs"][0]["steps"][0]["reason"]
