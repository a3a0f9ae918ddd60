"""Principals of all roles, and a project with one resource of each kind."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

import httpx

from pilothouse.access.model import ACTIONS, AGENT_ACTIONS, FULL_TOKEN, Role
from support.fake_agent import FakeAgent
from support.server import Server, spec_for
from support.waiting import PATIENCE

PUBLIC = "public"
UNKNOWN = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a"


@dataclass
class World:
    """Actors by name with their tokens, and a project with one of everything in it."""

    server: Server
    tokens: dict[str, str | None]
    project: str
    real: dict[str, str]

    def allowed(self, actor: str, action: str) -> bool:
        """The parsed table."""
        if action == PUBLIC:
            return True
        if actor == "nobody":
            return False
        if actor == "agent":
            return action in AGENT_ACTIONS
        if actor == "admin as viewer" and action in FULL_TOKEN:
            return False
        role = {"outsider": "user", "admin as viewer": "viewer"}.get(actor, actor)
        return Role(role) in ACTIONS.get(action, frozenset())

    def paths(self, template: str, *, real: bool) -> str:
        """The path with ids in it: of what is there, or of nothing."""
        named = {**dict.fromkeys(re.findall(r"{(\w+)", template), UNKNOWN), "project": self.project}
        if real:
            named |= self.real
        return re.sub(r"{(\w+)(:\w+)?}", lambda match: named[match[1]], template)


def make_world(server: Server) -> World:
    """Fill a fresh server."""
    project = server.project("walked")
    tokens: dict[str, str | None] = {"nobody": None, "admin": server.admin}
    for role in ("viewer", "user", "operator"):
        tokens[role] = server.user(role, role, [project])
    server.project("elsewhere")
    tokens["outsider"] = server.user("outsider", "user", [])
    narrow = server.ask("POST", "/tokens", json={"name": "narrow", "role": "viewer"})
    tokens["admin as viewer"] = narrow["token"]
    tokens["agent"] = asyncio.run(_register(server))
    pipeline_id = server.pipeline("walked", spec_for("nobody"), project=project)
    run_id = server.trigger(pipeline_id)  # does not end, so that nobody deletes the project
    blob = server.call("POST", f"/blobs?project={project}", content=b"bytes").json()["id"]
    server.ask("PUT", "/secrets/SECRET", json={"value": "s3cr3t-value", "projectId": project})
    real = {"pipeline_id": pipeline_id, "run_id": run_id, "blob_id": blob, "name": "SECRET"}
    tenant = server.ask("POST", "/tenants", json={"name": "walked"})["tenantId"]
    server.ask("PUT", f"/projects/{project}", json={"tenantId": tenant})
    upload = server.ask("POST", f"/uploads?name=walked&projectId={project}", content=b"bytes")["uploadId"]
    real |= {"tenant": tenant, "upload_id": upload}
    real |= {"agent_id": "walker", "user": "viewer", "gate_id": _open_gate(server, project)}
    real |= {"trigger_id": _trigger(server, project), "delivery_id": failed_delivery(server, pipeline_id)}
    return World(server, tokens, project, real)


def _open_gate(server: Server, project: str) -> str:
    """A gate without restrictions on who may decide it."""
    step = {"name": "ask", "uses": "approval", "args": {"roles": ["user", "operator"]}}
    spec = {"jobs": [{"name": "j", "steps": [step]}]}
    run_id = server.trigger(server.pipeline("gated", spec, project=project))
    found: str = server.ask("GET", f"/gates?run={run_id}")["gates"][0]["id"]
    return found


def _trigger(server: Server, project: str) -> str:
    """A trigger of a pipeline of the project."""
    nightly = {"type": "cron", "options": {"schedule": "0 3 1 1 *"}}
    pipeline = server.pipeline("nightly", {**spec_for("nobody"), "triggers": [nightly]}, project=project)
    return str(server.ask("GET", f"/triggers?pipeline={pipeline}")["triggers"][0]["id"])


def failed_delivery(server: Server, pipeline_id: str) -> str:
    """A delivery of a notification that has failed, since the server has no mail server."""
    told = {"onSuccess": {"plugin": "email", "params": {"to": ["walker@example.org"]}}}
    nothing = {"name": "j", "when": "false", "notify": told, "steps": [{"name": "s", "uses": "dummy"}]}
    run_id = server.trigger(pipeline_id, spec={"jobs": [nothing], "notify": told})
    path = f"/pipelines/{pipeline_id}/notifications?runId={run_id}"
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = server.ask("GET", path)["list"]
        if found and found[0]["status"] == "failed":
            return str(found[0]["deliveryId"])
        time.sleep(0.05)
    raise AssertionError(f"no delivery of run {run_id} has failed: {found}")


async def _register(server: Server) -> str:
    async with FakeAgent(server.grpc, "walker") as agent:
        await agent.register(server.registration_token())
        return agent.token


def routes_of(server: Server) -> list[tuple[str, str, str]]:
    """Method, path and required action of every operation of the live document."""
    document = httpx.get(f"{server.url}/openapi.json").json()
    return [
        (method.upper(), path, operation.get("x-required-action", ""))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
