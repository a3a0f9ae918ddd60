"""Steps: what a process can do that a real agent runs, by what it prints. Slots of the agent are its bound."""

from __future__ import annotations

import asyncio
import json
import time

from faults.neighbours import payloads
from faults.neighbours.ground import Ground
from faults.neighbours.table import abuse

MASKS = 'i=0; while :; do i=$((i+1)); echo "::mask secret-$i-xxxxxxxxxxxx"; done'
OUTPUTS = "i=0; while :; do i=$((i+1)); echo \"::output o$i=$(head -c 20000 /dev/zero | tr '\\0' v)\"; done"
SECRET = 'yes "$(echo "$S" | tr -d \'\\n\' | head -c 200)"'


async def _runs(ground: Ground, *scripts: str, **more: object) -> None:
    """A run whose step prints this, each in a pipeline of its own; it goes on until the attack is over."""
    token = ground.token("setup")
    only = {"agentSelector": {"matchLabels": {"only": "real"}}}
    runs = ground.kept.setdefault("runs", [])
    for script in scripts:
        step = {"name": "s", "uses": "shell", "args": {"script": script}, **only, **more}
        pipeline = await ground.pipeline(payloads.job(step))
        runs.append((await ground.detail("POST", f"pipelines/{pipeline}/trigger", token, {}))["runId"])
    ground.kept["scripts"] = len(scripts)


async def _watch(ground: Ground) -> None:
    """What the attack does while the steps print: nothing but to look at them."""
    await asyncio.sleep(0.5)
    answer = await ground.client.ask("GET", f"workflow-runs/{ground.kept['runs'][0]}", ground.token("setup"))
    ground.count(answer.outcome)


async def _stop(ground: Ground) -> None:
    """Cancel what still runs, and tell how each run fared."""
    token = ground.token("setup")
    for run in ground.kept["runs"]:
        shown = await ground.detail("GET", f"workflow-runs/{run}", token)
        ground.count(f"run {shown['status']}")
        if shown["status"] == "running":
            body = json.dumps({"force": True}).encode()
            await ground.client.ask("POST", f"workflow-runs/{run}/cancel", token, body)


REFUSED_WITHIN = 30.0
"""Seconds that the first step of an attack may take to start and to reach a bound of the agent."""


async def _refused(ground: Ground) -> None:
    """Wait until the first run is over, since its step is ended at a bound; then as :func:`_stop`."""
    path = f"workflow-runs/{ground.kept['runs'][0]}"
    end = time.monotonic() + REFUSED_WITHIN
    while time.monotonic() < end:
        shown = await ground.detail("GET", path, ground.token("setup"))  # each may ask 100 times a minute
        if shown["status"] not in ("queued", "running"):
            break
        await asyncio.sleep(0.2)
    await _stop(ground)


def _printing(*scripts: str, **more: object) -> object:
    async def prepare(ground: Ground) -> None:
        if more.get("env"):
            body = {"value": payloads.short_lines(), "projectId": ground.given["project"]}
            await ground.detail("PUT", "secrets/SHORT", ground.token("setup"), body)
        await _runs(ground, *scripts, **more)

    return prepare


ENVIRONMENT = (
    "i=0; while :; do i=$((i+1)); echo \"N$i=$(head -c 90000 /dev/zero | tr '\\0' v)\" >> $PILOT_ENV; done"
)

WATCHED = {
    "step lines": ("yes 'a line of a step that has no end'", "yes", "cat /dev/zero"),
    "step masks": (MASKS, MASKS),
    "step outputs": (OUTPUTS, "yes '::output-json big={\"a\":[1,2,3]}'"),
    "step environment": ("head -c 200000000 /dev/zero | tr '\\0' '\\n' >> $PILOT_ENV", ENVIRONMENT),
    "step progress": ("yes '::progress 40 message'", "yes '::output a=b'"),
}
for _name, _scripts in WATCHED.items():
    abuse(
        _name,
        "step",
        ("run failed",) if _name == "step masks" else (),
        prepare=_printing(*_scripts),
        after=_refused if _name == "step masks" else _stop,
    )(_watch)  # type: ignore[arg-type]
abuse(
    "step secrets",
    "step",
    prepare=_printing(SECRET, SECRET, env={"S": "${{ secrets.SHORT }}"}),
    after=_stop,  # type: ignore[arg-type]
)(_watch)
