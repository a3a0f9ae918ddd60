"""Every text, list and map in a request over gRPC has a bound below that of its message, or has no effect.

The table says which, and fails for fields that it does not know: a new field of a request needs a line. The messages
themselves are bounded by ``server/rpc_gate.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from pilothouse.edge import calls
from pilothouse.engine import grpc as gateway
from pilothouse.engine.intake import batches
from pilothouse.fleet import messages, model, registry, stream_channel
from pilothouse.pipelines import grpc_steps
from pilothouse.server import following, system_events, watches
from pilothouse.wire.agent.v1 import agent_pb2
from pilothouse.wire.gateway.v1 import gateway_pb2
from pilothouse.wire.pipeline.v1 import pipeline_pb2
from pilothouse.wire.steprun.v1 import steprun_pb2
from pilothouse.wire.stream.v1 import stream_pb2

FILES = (agent_pb2, gateway_pb2, pipeline_pb2, steprun_pb2, stream_pb2)
TREES = {"google.protobuf.Struct", "pipeline.v1.Spec"}
"""Messages with rules of their own: payloads (``engine/grpc.py``), specs (docs/pipelines.md)."""

UNUSED = "not read, or compared only"
BODY = "checked as the field of the route's body (e2e/test_bounds.py)"
SPEC = "checked as a part of a spec, in a worker"
REFUSED = "refused if it is given"
DIGEST = "only its digest is looked up"

AGENT = f"{messages.MAX_ID} characters"
LONG = f"{messages.MAX_TEXT} characters"
SHORT = f"{model.MAX_PROBLEM} characters"
LABELS = f"{registry.MAX_LABELS} entries of {registry.MAX_WORD} characters"
WORD = f"{registry.MAX_WORD} characters"
HELD = f"two for each slot and {messages.MAX_HELD} more, of {AGENT}"
PROBLEMS = f"{model.MAX_PROBLEMS} of {SHORT}"
METRICS = f"{messages.MAX_METRICS} entries of {messages.MAX_METRIC} characters"
ID = f"{calls.MAX_ID} characters"
PUSHED = f"{batches.MAX_ID} characters"
NAMED = f"{following.MAX_ID} characters"
MANY = f"{watches.MAX_IDS} of {NAMED}"

BOUNDS: dict[str, dict[str, str]] = {
    "agent.v1.HeartbeatRequest": {
        "agent_id": UNUSED,
        "agent_name": UNUSED,
        "running_step_run_ids": HELD,
        "problems": PROBLEMS,
    },
    "agent.v1.RegisterRequest": {
        **dict.fromkeys(("ip", "os", "arch", "version", "agent_name", "platform", "region"), WORD),
        "agent_id": AGENT,
        "labels": LABELS,
        "metadata": f"{registry.MAX_METADATA} bytes",
        "token": DIGEST,
        "registration_token": DIGEST,
    },
    "agent.v1.UnregisterRequest": {"agent_id": UNUSED, "reason": SHORT},
    "agent.v1.FetchStepRunRequest": {"agent_id": UNUSED},
    "agent.v1.ReportStepRunStatusRequest": {
        "agent_id": UNUSED,
        "step_run_id": AGENT,
        "error_message": LONG,
        "metrics": METRICS,
        "reason": UNUSED,
    },
    "agent.v1.ReportJobRunStatusRequest": {
        "agent_id": UNUSED,
        "job_run_id": AGENT,
        "error_message": LONG,
        "artifact_uris": f"{messages.MAX_URIS} entries of {messages.MAX_URI} characters",
    },
    "agent.v1.CancelStepRunRequest": {"agent_id": UNUSED, "step_run_id": AGENT, "reason": SHORT},
    "agent.v1.CancelJobRunRequest": {"job_run_id": AGENT, "reason": SHORT},
    "agent.v1.UpdateLabelsRequest": {"agent_id": UNUSED, "labels": LABELS},
    "agent.v1.ConnectRequest": {"agent_id": UNUSED, "request_id": UNUSED},
    "agent.v1.ConnectHeartbeat": {"running_step_run_ids": HELD, "problems": PROBLEMS},
    "agent.v1.TaskAck": {"command_id": AGENT, "message": LONG},
    "agent.v1.TaskStatus": {
        "step_run_id": AGENT,
        "error_message": LONG,
        "metrics": METRICS,
        "reason": UNUSED,
    },
    "gateway.v1.AgentHandshake": {"agent_id": UNUSED},
    "gateway.v1.LogBatch": {
        "batch_id": PUSHED,
        "data": f"{batches.MAX_PACKED} bytes, {batches.MAX_RAW} unpacked, {batches.MAX_LINES} lines",
    },
    "gateway.v1.Meta": {"agent_id": UNUSED, "pipeline_id": UNUSED, "step_id": PUSHED},
    "gateway.v1.EventBatch": {"batch_id": UNUSED, "events": f"{gateway.MAX_EVENTS}"},
    "gateway.v1.Event": {
        "event_id": PUSHED,
        "event_type": PUSHED,
        "payload": f"{gateway.MAX_PAYLOAD} bytes, {gateway.MAX_VALUES} values, {gateway.MAX_DEPTH} levels",
    },
    "pipeline.v1.CreatePipelineRequest": {
        "project_id": BODY,
        "name": BODY,
        "description": BODY,
        "repo_url": BODY,
        "default_branch": BODY,
        "pipeline_file_path": BODY,
        "pr_target_branch": BODY,
        "metadata": BODY,
        "created_by": UNUSED,
    },
    "pipeline.v1.UpdatePipelineRequest": {
        "pipeline_id": ID,
        "name": BODY,
        "description": BODY,
        "repo_url": BODY,
        "default_branch": BODY,
        "pipeline_file_path": BODY,
        "pr_target_branch": BODY,
        "metadata": BODY,
    },
    "pipeline.v1.GetPipelineRequest": {"pipeline_id": ID},
    "pipeline.v1.ListPipelinesRequest": {"project_id": ID, "name": "256 characters"},
    "pipeline.v1.DeletePipelineRequest": {"pipeline_id": ID},
    "pipeline.v1.TriggerPipelineRequest": {
        "pipeline_id": ID,
        "variables": BODY,
        "triggered_by": UNUSED,
        "request_id": BODY,
        "checkout_blob": BODY,
        "spec_text": BODY,
    },
    "pipeline.v1.StopPipelineRequest": {"pipeline_id": ID, "run_id": ID, "reason": BODY},
    "pipeline.v1.PausePipelineRequest": {
        "pipeline_id": ID,
        "run_id": ID,
        "reason": BODY,
        "operator": UNUSED,
    },
    "pipeline.v1.ResumePipelineRequest": {
        "pipeline_id": ID,
        "run_id": ID,
        "reason": BODY,
        "operator": UNUSED,
    },
    "pipeline.v1.GetPipelineRunRequest": {"run_id": ID},
    "pipeline.v1.ListPipelineRunsRequest": {"pipeline_id": ID},
    "pipeline.v1.GetPipelineSpecRequest": {"pipeline_id": ID},
    "pipeline.v1.ValidatePipelineSpecRequest": {"pipeline_id": ID, "spec": SPEC},
    "pipeline.v1.SavePipelineSpecRequest": {
        "pipeline_id": ID,
        "spec": SPEC,
        "expected_head_commit_sha": BODY,
        "commit_message": BODY,
        "request_id": BODY,
        "editor": UNUSED,
    },
    "steprun.v1.CreateStepRunRequest": {
        **dict.fromkeys(("pipeline_id", "pipeline_run_id", "job_id", "job_name"), ID),
        **dict.fromkeys(("step_name", "uses", "action", "args", "env", "timeout", "secrets", "when"), SPEC),
        **dict.fromkeys(("workspace", "image", "artifacts", "plugins"), REFUSED),
    },
    "steprun.v1.ArtifactConfig": dict.fromkeys(("name", "path", "destination"), REFUSED),
    "steprun.v1.AgentSelector": {"match_labels": SPEC, "match_expressions": SPEC},
    "steprun.v1.LabelExpression": {"key": SPEC, "operator": SPEC, "values": SPEC},
    "steprun.v1.PluginInfo": dict.fromkeys(
        ("plugin_id", "name", "version", "checksum", "download_url"), REFUSED
    ),
    "steprun.v1.GetStepRunRequest": {"step_run_id": ID},
    "steprun.v1.ListStepRunsRequest": {
        "pipeline_id": ID,
        "pipeline_run_id": ID,
        "job_id": ID,
        "job_name": ID,
        "step_name": ID,
        "agent_id": ID,
        "sort_by": "64 characters",
    },
    "steprun.v1.UpdateStepRunRequest": {"step_run_id": ID, "env": SPEC, "timeout": SPEC},
    "steprun.v1.DeleteStepRunRequest": {"step_run_id": ID},
    "steprun.v1.CancelStepRunRequest": {
        "step_run_id": ID,
        "reason": f"{grpc_steps.MAX_REASON} characters",
    },
    "steprun.v1.RetryStepRunRequest": {"step_run_id": ID},
    "steprun.v1.ListStepRunArtifactsRequest": {"step_run_id": ID},
    "stream.v1.StreamStepRunStatusRequest": {
        "step_run_ids": MANY,
        **dict.fromkeys(("pipeline_id", "pipeline_run_id", "job_id", "job_name"), NAMED),
    },
    "stream.v1.StreamJobStatusRequest": {"job_ids": MANY, "pipeline_id": NAMED, "pipeline_run_id": NAMED},
    "stream.v1.StreamPipelineStatusRequest": {"pipeline_ids": MANY, "pipeline_run_ids": MANY},
    "stream.v1.AgentChannelRequest": {"agent_id": UNUSED, "request_id": AGENT},
    "stream.v1.HeartbeatData": {"running_step_run_ids": HELD, "problems": PROBLEMS},
    "stream.v1.StepRunStatusUpdate": {"step_run_id": AGENT, "error_message": LONG, "metrics": METRICS},
    "stream.v1.AgentMetrics": {
        "custom_metrics": f"{stream_channel.MAX_METRICS} entries of {stream_channel.MAX_METRIC} characters"
    },
    "stream.v1.StreamAgentStatusRequest": {"agent_ids": MANY},
    "stream.v1.StreamEventsRequest": {
        "event_types": f"{system_events.MAX_TYPES}",
        "resource_ids": MANY,
        "resource_type": "one of a few words",
    },
}


def requests() -> Iterator[Descriptor]:
    """The request of every method."""
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield method.input_type


def large(message: Descriptor) -> Iterator[FieldDescriptor]:
    """The fields of a request that can be large, also those of messages in it."""
    for field in message.fields:
        inner = field.message_type
        inside = inner is not None and not inner.GetOptions().map_entry and inner.full_name not in TREES
        if field.is_repeated or field.type in (field.TYPE_STRING, field.TYPE_BYTES) or (inner and not inside):
            yield field
        if inner is not None and inside:
            yield from large(inner)


def found(*messages: Descriptor) -> set[str]:
    return {field.full_name for message in messages for field in large(message)}


def test_every_field_has_a_bound() -> None:
    known = {f"{message}.{field}" for message, fields in BOUNDS.items() for field in fields}
    fields = found(*requests())
    assert len(fields) > 150
    assert fields - known == set(), "fields without a bound"
    assert known - fields == set(), "lines without a field"


def test_the_walk_finds_fields_of_every_kind() -> None:
    """A control of the walk itself."""
    registering = found(agent_pb2.RegisterRequest.DESCRIPTOR)
    assert registering > {"agent.v1.RegisterRequest.labels", "agent.v1.RegisterRequest.ip"}
    assert "agent.v1.RegisterRequest.max_sessions" not in registering
    assert "gateway.v1.LogBatch.data" in found(gateway_pb2.PushLogsRequest.DESCRIPTOR)
    pushed = found(gateway_pb2.PushEventsRequest.DESCRIPTOR)
    assert pushed > {"gateway.v1.EventBatch.events", "gateway.v1.Meta.step_id", "gateway.v1.Event.payload"}
    assert "pipeline.v1.SavePipelineSpecRequest.spec" in found(
        pipeline_pb2.SavePipelineSpecRequest.DESCRIPTOR
    )
