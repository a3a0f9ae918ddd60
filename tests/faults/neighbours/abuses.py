"""Every place where the server takes input, and the attacks on it.

``SURFACES`` is written by hand: a route, an RPC, a message, a command of a step that is new has no line here, and
``test_neighbours_walk.py`` fails. A surface without attacks has its reason in ``WITHOUT``. Attacks that go over many routes
(``paths``) take them from here.
"""

from __future__ import annotations

import re
from typing import Any

import httpx

from faults.neighbours import (
    attacks_agent,
    attacks_anonymous,
    attacks_network,
    attacks_reading,
    attacks_step,
    attacks_writing,
    payloads,
)
from faults.neighbours.ground import Ground
from faults.neighbours.table import ABUSES

__all__ = ["ABUSES", "SURFACES", "WITHOUT", "fields", "paths"]
ENTERED = (attacks_agent, attacks_anonymous, attacks_network, attacks_reading, attacks_step, attacks_writing)
"""Modules that enter their attacks into the table when they are imported."""

QUERY = ("parameters", "long addresses")
BODY = ("bodies of strangers", "deep JSON", "long fields")
ADMIN = (*BODY, "what is for others")
SPEC = (*BODY, "heavy specs of ten", "bombs")
ANY_CALL = ("messages of 16 MiB", "calls of strangers", "messages that are none")
NOT_OFFERED = (*ANY_CALL, "methods of others")
LISTED = (*QUERY, "at the limit")

_HTTP: dict[str, tuple[str, ...]] = {
    "POST /api/v1/auth/login": ("logins", "half bodies", *BODY),
    "POST /api/v1/auth/password": ("passwords", *BODY),
    "GET /api/v1/auth/sessions": QUERY,
    "DELETE /api/v1/auth/sessions/{session}": QUERY,
    "GET /api/v1/users": (*QUERY, "what is for others"),
    "POST /api/v1/users": ADMIN,
    "GET /api/v1/users/{user}": ("what is for others",),
    "PATCH /api/v1/users/{user}": ADMIN,
    "PUT /api/v1/users/{user}": ADMIN,
    "DELETE /api/v1/users/{user}": ("what is for others",),
    "POST /api/v1/users/{user}/password": ADMIN,
    "POST /api/v1/tokens": ("tokens", *BODY),
    "GET /api/v1/tokens": ("tokens", *LISTED),
    "DELETE /api/v1/tokens/{token}": ("tokens",),
    "GET /api/v1/audit": (*QUERY, "what is for others"),
    "GET /api/v1/projects": LISTED,
    "POST /api/v1/projects": ADMIN,
    "GET /api/v1/projects/{project}": QUERY,
    "PUT /api/v1/projects/{project}": ADMIN,
    "PUT /api/v1/projects/{project}/members/{user}": ("what is for others",),
    "DELETE /api/v1/projects/{project}/members/{user}": ("what is for others",),
    "DELETE /api/v1/projects/{project}": ("what is for others",),
    "GET /api/v1/projects/{project}/members": LISTED,
    "GET /api/v1/tenants": LISTED,
    "POST /api/v1/tenants": ADMIN,
    "GET /api/v1/tenants/{tenant}": QUERY,
    "PUT /api/v1/tenants/{tenant}": ADMIN,
    "DELETE /api/v1/tenants/{tenant}": ("what is for others",),
    "GET /api/v1/settings": ("what is for others",),
    "PATCH /api/v1/settings": ADMIN,
    "POST /api/v1/uploads": ("forms", "bodies of strangers"),
    "GET /api/v1/uploads": LISTED,
    "GET /api/v1/uploads/{upload_id}": QUERY,
    "PATCH /api/v1/uploads/{upload_id}": ("forms", "bodies of strangers"),
    "DELETE /api/v1/uploads/{upload_id}": QUERY,
    "GET /api/v1/uploads/{upload_id}/content": QUERY,
    "GET /api/v1/roles": LISTED,
    "GET /api/v1/roles/{role}": QUERY,
    "GET /api/v1/secrets": ("secrets", *QUERY),
    "POST /api/v1/secrets": ("secrets", *BODY),
    "GET /api/v1/secrets/{name}": QUERY,
    "PUT /api/v1/secrets/{name}": ("secrets", "a flood to mask", "step secrets", *BODY),
    "DELETE /api/v1/secrets/{name}": QUERY,
    "POST /api/v1/blobs": ("blobs", "half uploads", "uploads of strangers", "checkout bombs"),
    "GET /api/v1/blobs/{blob_id}": QUERY,
    "GET /api/v1/workflow-runs/{run_id}/artifacts": QUERY,
    "GET /api/v1/workflow-runs/{run_id}/tests": QUERY,
    "GET /api/v1/step-runs/{step_run_id}/artifacts": QUERY,
    "GET /api/v1/step-runs/{step_run_id}/available-artifacts": QUERY,
    "GET /api/v1/artifacts/{artifact_id}": QUERY,
    "GET /api/v1/artifacts/{artifact_id}/content": QUERY,
    "GET /api/v1/artifacts/{artifact_id}/signed": QUERY,
    "DELETE /api/v1/artifacts/{artifact_id}": QUERY,
    "POST /api/v1/step-runs/{step_run_id}/artifacts": BODY,
    "PUT /api/v1/artifacts/{artifact_id}/parts": ("bodies of strangers",),
    "GET /api/v1/agents": LISTED,
    "GET /api/v1/agents/{agent_id}": QUERY,
    "PATCH /api/v1/agents/{agent_id}": ADMIN,
    "DELETE /api/v1/agents/{agent_id}": ("what is for others",),
    "POST /api/v1/registration-tokens": ADMIN,
    "GET /api/v1/registration-tokens": ("what is for others",),
    "DELETE /api/v1/registration-tokens/{token_id}": ("what is for others",),
    "GET /api/v1/workflow-runs/{run_id}/stream": ("replays", "readers that do not read", *QUERY),
    "GET /api/v1/workflow-runs": LISTED,
    "GET /api/v1/workflow-runs/{run_id}": ("runs of 5,000 steps", *QUERY),
    "GET /api/v1/workflow-runs/{run_id}/logs": ("whole logs", *QUERY),
    "POST /api/v1/workflow-runs/{run_id}/cancel": ("to and fro", *BODY),
    "POST /api/v1/workflow-runs/{run_id}/pause": ("to and fro",),
    "POST /api/v1/workflow-runs/{run_id}/resume": ("to and fro",),
    "POST /api/v1/workflow-runs/{run_id}/rerun": ("to and fro", *BODY),
    "GET /api/v1/checkouts/known": ("checkout bombs", *QUERY),
    "GET /api/v1/gates": ("gates", *LISTED),
    "GET /api/v1/gates/{gate_id}": QUERY,
    "POST /api/v1/gates/{gate_id}": ("gates", *BODY),
    "GET /api/v1/triggers": LISTED,
    "GET /api/v1/triggers/{trigger_id}": QUERY,
    "POST /api/v1/triggers/{trigger_id}/enable": ("triggers",),
    "POST /api/v1/triggers/{trigger_id}/disable": ("triggers",),
    "POST /api/v1/triggers/{trigger_id}/run": ("triggers",),
    "POST /api/v1/pipelines/spec/validate": ("a heavy spec", *SPEC),
    "GET /api/v1/pipelines/{pipeline_id}/spec": QUERY,
    "POST /api/v1/pipelines/{pipeline_id}/spec/validate": ("heavy saves", *BODY),
    "POST /api/v1/pipelines/{pipeline_id}/spec/save": ("heavy saves", *BODY),
    "POST /api/v1/pipelines": ("metadata", *BODY),
    "GET /api/v1/pipelines": ("metadata", *LISTED),
    "GET /api/v1/pipelines/{pipeline_id}": QUERY,
    "PUT /api/v1/pipelines/{pipeline_id}": BODY,
    "DELETE /api/v1/pipelines/{pipeline_id}": QUERY,
    "POST /api/v1/pipelines/{pipeline_id}/trigger": (
        "heavy saves", "costly conditions", "runs of 5,000 steps", "repetitions", "checkout bombs", *BODY,
    ),
    "GET /api/v1/pipelines/{pipeline_id}/notifications": QUERY,
    "GET /api/v1/pipelines/{pipeline_id}/runs": QUERY,
    "GET /api/v1/pipelines/{pipeline_id}/runs/{run_id}": QUERY,
    "POST /api/v1/pipelines/{pipeline_id}/runs/{run_id}/pause": ("to and fro",),
    "POST /api/v1/pipelines/{pipeline_id}/runs/{run_id}/resume": ("to and fro",),
    "POST /api/v1/pipelines/{pipeline_id}/runs/{run_id}/stop": ("to and fro", *BODY),
    "GET /api/v1/events": ("replays", *QUERY),
    "GET /healthz": ("health", "long addresses"),
    "GET /readyz": ("health", "long addresses"),
    "GET /metrics": ("health", "long addresses"),
    # not in the document: the connection itself
    "HTTP head": ("half heads", "silent connections", "come and go", "a byte at a time", "made-up tokens"),
    "HTTP body": ("half bodies", "half uploads", "bodies of strangers"),
    "HTTP Idempotency-Key": ("repetitions",),
}  # fmt: skip

_SOCKETS: dict[str, tuple[str, ...]] = {
    "WS /api/v1/ws": ("handshakes of strangers", "half handshakes", "frames"),
    "WS /api/v1/ws channel_log": ("subscriptions",),
    "WS /api/v1/ws channel_status": ("subscriptions",),
    "WS /api/v1/workflow-runs/{run_id}/stream": ("handshakes of strangers", "readers that do not read"),
}

_AGENT = "agent.v1.AgentService"
_RPC: dict[str, tuple[str, ...]] = {
    f"{_AGENT}/Heartbeat": ("heartbeats", *NOT_OFFERED),
    f"{_AGENT}/Register": ("bad registrations", "comings and goings", *ANY_CALL),
    f"{_AGENT}/Unregister": ("comings and goings", *NOT_OFFERED),
    f"{_AGENT}/FetchStepRun": ("polls", *NOT_OFFERED),
    f"{_AGENT}/ReportStepRunStatus": ("labels", *NOT_OFFERED),
    f"{_AGENT}/ReportJobRunStatus": ("cancels", *NOT_OFFERED),
    f"{_AGENT}/CancelStepRun": ("cancels", *NOT_OFFERED),
    f"{_AGENT}/CancelJobRun": ("cancels", *NOT_OFFERED),
    f"{_AGENT}/UpdateLabels": ("labels", *NOT_OFFERED),
    f"{_AGENT}/Connect": ("comings and goings", *ANY_CALL),
    f"{_AGENT}/Connect heartbeat": ("heartbeats",),
    f"{_AGENT}/Connect task_ack": ("heartbeats",),
    f"{_AGENT}/Connect task_status": ("heartbeats",),
    "gateway.v1.GatewayService/PushLogs handshake": ("a flood of lines",),
    "gateway.v1.GatewayService/PushLogs batch": ("a flood of lines", "empty frames"),
    "gateway.v1.GatewayService/PushEvents handshake": ("a flood of events",),
    "gateway.v1.GatewayService/PushEvents batch": ("a flood of events",),
    "gateway.v1.GatewayService/PushLogs": (
        "empty frames", "eight million lines", "unpacking without end", "a flood of lines", "a flood to mask",
        "lines as JSON", *ANY_CALL,
    ),
    "gateway.v1.GatewayService/PushEvents": ("a flood of events", "outputs that conditions read", *ANY_CALL),
    "stream.v1.StreamService/AgentChannel": ("agent channel", *ANY_CALL),
    "stream.v1.StreamService/AgentChannel heartbeat": ("agent channel",),
    "stream.v1.StreamService/AgentChannel metrics": ("agent channel",),
    "stream.v1.StreamService/AgentChannel step_run_fetch": ("agent channel",),
    "stream.v1.StreamService/AgentChannel step_run_status": ("agent channel",),
    "stream.v1.StreamService/StreamEvents": ("statuses over gRPC", *ANY_CALL),
    "stream.v1.StreamService/StreamStepRunStatus": ("statuses over gRPC", *ANY_CALL),
    "stream.v1.StreamService/StreamJobStatus": ("statuses over gRPC", *ANY_CALL),
    "stream.v1.StreamService/StreamPipelineStatus": ("statuses over gRPC", *ANY_CALL),
    "stream.v1.StreamService/StreamAgentStatus": ("statuses over gRPC", *ANY_CALL),
    **{
        f"pipeline.v1.PipelineService/{name}": ("calls of users", *NOT_OFFERED)
        for name in (
            "CreatePipeline", "UpdatePipeline", "GetPipeline", "ListPipelines", "DeletePipeline", "TriggerPipeline",
            "StopPipeline", "PausePipeline", "ResumePipeline", "GetPipelineRun", "ListPipelineRuns",
            "GetPipelineSpec", "ValidatePipelineSpec", "SavePipelineSpec",
        )
    },
    **{
        f"steprun.v1.StepRunService/{name}": ("calls of users", *NOT_OFFERED)
        for name in (
            "CreateStepRun", "GetStepRun", "ListStepRuns", "UpdateStepRun", "DeleteStepRun", "CancelStepRun",
            "RetryStepRun", "ListStepRunArtifacts",
        )
    },
    "HTTP/2 connection": ("silent HTTP/2",),
    "grpc.health.v1.Health/Check": ("reflection and health",),
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ("reflection and health",),
}  # fmt: skip

_STEPS: dict[str, tuple[str, ...]] = {
    "STEP stdout": ("step lines", "step secrets"),
    "STEP PILOT_ENV": ("step environment",),
    "STEP ::mask": ("step masks",),
    "STEP ::output": ("step outputs", "step progress"),
    "STEP ::output-json": ("step outputs",),
    "STEP ::progress": ("step progress",),
}

SURFACES: dict[str, tuple[str, ...]] = {**_HTTP, **_SOCKETS, **_RPC, **_STEPS}

WITHOUT: dict[str, str] = {
    "POST /api/v1/auth/logout": "takes a token and nothing else",
    "DELETE /api/v1/auth/sessions": "takes a token and nothing else, and ends it",
    "POST /api/v1/pipelines/{pipeline_id}/notifications/{delivery_id}/redeliver": "takes a token and two ids; what it "
    "causes is bounded by the shares of a receiver and a project (test_notifications_contract.py)",
    "GET /api/v1/identity/me": "takes a token and nothing else, like `GET /api/v1/auth/me`",
    "GET /api/v1/auth/me": "takes a token and nothing else; it is part of `at the limit`",
    "GET /api/v1/agents/stats": "takes a token and nothing else; it is part of `at the limit`",
    "grpc.health.v1.Health/List": "takes an empty message; `reflection and health` asks its neighbours",
    "grpc.health.v1.Health/Watch": "a stream of one message; the connection is what it costs (`silent HTTP/2`)",
}


def paths(kind: str) -> list[tuple[str, str]]:
    """Method and path of each route under attack of a kind: ``body``, ``json``, ``query``, ``admin``."""
    row = {
        "body": "bodies of strangers",
        "json": "deep JSON",
        "query": "parameters",
        "admin": "what is for others",
    }
    found = [surface.split(" ", 1) for surface, rows in _HTTP.items() if row[kind] in rows]
    return [
        (method, re.sub(r"{\w+}", payloads.UNKNOWN, path)) for method, path in found if path.startswith("/")
    ]


async def fields(ground: Ground) -> list[tuple[str, str, str]]:
    """Method, path and each field of the bodies that the document describes."""
    document = await ground.once("document", lambda: _document(ground))
    found = []
    for surface, rows in _HTTP.items():
        if "long fields" in rows:
            method, path = surface.split(" ", 1)
            schema = _body(document, document["paths"][path][method.lower()])
            full = re.sub(r"{\w+}", payloads.UNKNOWN, path)
            found += [(method, full, name) for name in schema.get("properties", ())]
    return found


async def _document(ground: Ground) -> Any:
    async with httpx.AsyncClient() as http:
        return (await http.get(ground.given["http"] + "/openapi.json")).json()


def _body(document: Any, operation: Any) -> Any:
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema
