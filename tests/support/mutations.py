"""One request that succeeds for every route that changes something; a test asserts that none is missing.

Each is made for :class:`Grounds`: a project with a pipeline, and makes what it changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support.server import PASSWORD, Server
from support.world import failed_delivery

APPROVAL = {"name": "ask", "uses": "approval", "args": {"roles": ["user", "operator"]}}
SPEC = {"jobs": [{"name": "j", "steps": [APPROVAL]}]}
NIGHTLY = {**SPEC, "triggers": [{"type": "cron", "options": {"schedule": "0 3 1 1 *"}}]}
_numbers = itertools.count(1)


@dataclass
class Grounds:
    """Where the requests are made: a project of a server with a pipeline whose runs wait for an approval."""

    server: Server
    project: str
    pipeline: str

    @classmethod
    def of(cls, server: Server, name: str) -> Grounds:
        """New ones."""
        project = server.project(name)
        return cls(server, project, server.pipeline(f"{name} walked", SPEC, project=project))

    def new(self, word: str = "walked") -> str:
        """A name that is free."""
        return f"{word}-{next(_numbers)}"

    def run(self) -> str:
        """A run that waits."""
        return self.server.trigger(self.pipeline)

    def paused(self) -> str:
        """A run that is paused."""
        run_id = self.run()
        self.server.ask("POST", f"/workflow-runs/{run_id}/pause")
        return run_id

    def ended(self) -> str:
        """A run that has ended."""
        run_id = self.run()
        self.server.ask("POST", f"/workflow-runs/{run_id}/cancel", json={"force": True})
        return run_id

    def gate(self) -> str:
        """An open gate."""
        return str(self.server.ask("GET", f"/gates?run={self.run()}&status=open")["gates"][0]["id"])

    def trigger(self) -> str:
        """A trigger of a new pipeline."""
        pipeline = self.server.pipeline(self.new(), NIGHTLY, project=self.project)
        return str(self.server.ask("GET", f"/triggers?pipeline={pipeline}")["triggers"][0]["id"])

    def user(self) -> str:
        """The name of a new user."""
        name = self.new("user")
        self.server.ask("POST", "/users", json={"username": name, "password": PASSWORD, "projects": []})
        return name

    def member(self) -> str:
        """The name of a new member."""
        name = self.user()
        self.server.ask("PUT", f"/projects/{self.project}/members/{name}")
        return name

    def other_pipeline(self) -> str:
        """A new pipeline."""
        body = {"name": self.new(), "projectId": self.project}
        return str(self.server.ask("POST", "/pipelines", json=body)["pipelineId"])

    def tenant(self) -> str:
        """The id of a new tenant."""
        return str(self.server.ask("POST", "/tenants", json={"name": self.new("tenant")})["tenantId"])

    def upload(self) -> str:
        """The id of a new upload of two bytes, of which none has arrived."""
        path = f"/uploads?name={self.new()}&projectId={self.project}"
        return str(self.server.ask("POST", path, headers={"Upload-Length": "2"})["uploadId"])

    def secret(self) -> str:
        """The name of a new secret."""
        name = self.new("SECRET").replace("-", "_")
        self.server.ask("PUT", f"/secrets/{name}", json={"value": "s3cr3t-value", "projectId": self.project})
        return name


@dataclass(frozen=True)
class Asked:
    """A request: the ids in its path, and what ``httpx`` takes."""

    ids: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


def asked(_ids: dict[str, str] | None = None, **more: Any) -> Asked:
    """A request."""
    return Asked(_ids or {}, more)


def _run_of(g: Grounds, run_id: str, **more: Any) -> Asked:
    return asked({"pipeline_id": g.pipeline, "run_id": run_id}, **more)


REQUESTS: dict[tuple[str, str], Callable[[Grounds], Asked]] = {
    ("POST", "/api/v1/users"): lambda g: asked(
        json={"username": g.new("user"), "password": PASSWORD, "projects": [g.project]}
    ),
    ("PUT", "/api/v1/users/{user}"): lambda g: asked({"user": g.user()}, json={"role": "viewer"}),
    ("PATCH", "/api/v1/users/{user}"): lambda g: asked({"user": g.user()}, json={"role": "viewer"}),
    ("DELETE", "/api/v1/users/{user}"): lambda g: asked({"user": g.user()}),
    ("POST", "/api/v1/users/{user}/password"): lambda g: asked(
        {"user": g.user()}, json={"password": PASSWORD + "!"}
    ),
    ("POST", "/api/v1/tokens"): lambda g: asked(json={"name": g.new()}),
    ("DELETE", "/api/v1/tokens/{token}"): lambda g: asked(
        {"token": g.server.ask("POST", "/tokens", json={"name": g.new()})["id"]}
    ),
    ("DELETE", "/api/v1/auth/sessions/{session}"): lambda g: asked({"session": _login(g)}),
    ("DELETE", "/api/v1/auth/sessions"): lambda g: asked(params={"user": g.user()}),
    ("POST", "/api/v1/projects"): lambda g: asked(json={"name": g.new()}),
    ("PUT", "/api/v1/projects/{project}"): lambda g: asked(
        {"project": g.project}, json={"description": g.new()}
    ),
    ("PUT", "/api/v1/projects/{project}/members/{user}"): lambda g: asked(
        {"project": g.project, "user": g.user()}
    ),
    ("DELETE", "/api/v1/projects/{project}/members/{user}"): lambda g: asked(
        {"project": g.project, "user": g.member()}
    ),
    ("DELETE", "/api/v1/projects/{project}"): lambda g: asked({"project": g.server.project(g.new())}),
    ("POST", "/api/v1/tenants"): lambda g: asked(json={"name": g.new("tenant")}),
    ("PUT", "/api/v1/tenants/{tenant}"): lambda g: asked(
        {"tenant": g.tenant()}, json={"description": g.new()}
    ),
    ("DELETE", "/api/v1/tenants/{tenant}"): lambda g: asked({"tenant": g.tenant()}),
    ("PATCH", "/api/v1/settings"): lambda g: asked(json={"settings": {"quota_runs": next(_numbers) + 9999}}),
    ("POST", "/api/v1/uploads"): lambda g: asked(
        params={"projectId": g.project, "name": g.new()}, content=b"bytes"
    ),
    ("PATCH", "/api/v1/uploads/{upload_id}"): lambda g: asked(
        {"upload_id": g.upload()}, content=b"ab", headers={"Upload-Offset": "0"}
    ),
    ("DELETE", "/api/v1/uploads/{upload_id}"): lambda g: asked({"upload_id": g.upload()}),
    ("POST", "/api/v1/registration-tokens"): lambda g: asked(json={"description": g.new()}),
    ("DELETE", "/api/v1/registration-tokens/{token_id}"): lambda g: asked(
        {"token_id": g.server.ask("POST", "/registration-tokens", json={})["id"]}
    ),
    ("POST", "/api/v1/blobs"): lambda g: asked(params={"project": g.project}, content=b"bytes"),
    ("POST", "/api/v1/secrets"): lambda g: asked(
        json={"name": g.new("S").replace("-", "_"), "value": "s3cr3t-value", "projectId": g.project}
    ),
    ("PUT", "/api/v1/secrets/{name}"): lambda g: asked(
        {"name": "WALKED"}, json={"value": "s3cr3t-value", "projectId": g.project}
    ),
    ("DELETE", "/api/v1/secrets/{name}"): lambda g: asked(
        {"name": g.secret()}, params={"projectId": g.project}
    ),
    ("POST", "/api/v1/pipelines"): lambda g: asked(json={"name": g.new(), "projectId": g.project}),
    ("PUT", "/api/v1/pipelines/{pipeline_id}"): lambda g: asked(
        {"pipeline_id": g.other_pipeline()}, json={"description": "changed"}
    ),
    ("DELETE", "/api/v1/pipelines/{pipeline_id}"): lambda g: asked({"pipeline_id": g.other_pipeline()}),
    ("POST", "/api/v1/pipelines/{pipeline_id}/spec/save"): lambda g: asked(
        {"pipeline_id": g.other_pipeline()}, json={"spec": SPEC}
    ),
    ("POST", "/api/v1/pipelines/{pipeline_id}/trigger"): lambda g: asked(
        {"pipeline_id": g.pipeline}, json={}
    ),
    ("POST", "/api/v1/pipelines/{pipeline_id}/runs/{run_id}/pause"): lambda g: _run_of(g, g.run()),
    ("POST", "/api/v1/pipelines/{pipeline_id}/runs/{run_id}/resume"): lambda g: _run_of(g, g.paused()),
    ("POST", "/api/v1/pipelines/{pipeline_id}/runs/{run_id}/stop"): lambda g: _run_of(g, g.run(), json={}),
    ("POST", "/api/v1/workflow-runs/{run_id}/cancel"): lambda g: _run_of(g, g.run(), json={}),
    ("POST", "/api/v1/workflow-runs/{run_id}/pause"): lambda g: _run_of(g, g.run()),
    ("POST", "/api/v1/workflow-runs/{run_id}/resume"): lambda g: _run_of(g, g.paused()),
    ("POST", "/api/v1/workflow-runs/{run_id}/rerun"): lambda g: _run_of(g, g.ended(), json={}),
    ("POST", "/api/v1/pipelines/{pipeline_id}/notifications/{delivery_id}/redeliver"): lambda g: asked(
        {"pipeline_id": g.pipeline, "delivery_id": failed_delivery(g.server, g.pipeline)}
    ),
    ("POST", "/api/v1/triggers/{trigger_id}/enable"): lambda g: asked({"trigger_id": g.trigger()}),
    ("POST", "/api/v1/triggers/{trigger_id}/disable"): lambda g: asked({"trigger_id": g.trigger()}),
    ("POST", "/api/v1/triggers/{trigger_id}/run"): lambda g: asked({"trigger_id": g.trigger()}),
    ("POST", "/api/v1/gates/{gate_id}"): lambda g: asked({"gate_id": g.gate()}, json={"decision": "approve"}),
}
"""By method and path."""

ELSEWHERE = {
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/auth/logout"),
    ("POST", "/api/v1/auth/password"),
    ("PATCH", "/api/v1/agents/{agent_id}"),
    ("DELETE", "/api/v1/agents/{agent_id}"),
    ("DELETE", "/api/v1/artifacts/{artifact_id}"),
    ("POST", "/api/v1/step-runs/{step_run_id}/artifacts"),
    ("PUT", "/api/v1/artifacts/{artifact_id}/parts"),
}
"""Changes that need more than a request; tests make them by name."""

READ_ONLY = {
    ("POST", "/api/v1/pipelines/spec/validate"),
    ("POST", "/api/v1/pipelines/{pipeline_id}/spec/validate"),
}
"""These change nothing."""


def _login(g: Grounds) -> str:
    name = g.user()
    g.server.login(name)
    return str(g.server.ask("GET", f"/auth/sessions?user={name}")["sessions"][0]["id"])
