"""pipeline.v1.PipelineService: pipelines, their specs and runs (arcentra-wire.txt, decisions.md).

The same use cases as the routes in ``pipelines/http``. Texts that name an actor are ignored for the caller's own
identity. In requests an empty field is one that was not given: an update keeps what it does not name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import Principal
from pilothouse.edge.calls import (
    Calls,
    answered,
    bounded,
    known_number,
    optional_id,
    paging,
    read,
    required_id,
)
from pilothouse.edge.grpc import Context
from pilothouse.edge.module import RpcService
from pilothouse.edge.paging import Paging
from pilothouse.engine import list_store
from pilothouse.engine.errors import RunNotFound
from pilothouse.engine.model import Run
from pilothouse.engine.problems import SpecError
from pilothouse.engine.service import Engine
from pilothouse.engine.store import run_row
from pilothouse.identity.service import Identity
from pilothouse.pipelines import store
from pilothouse.pipelines.errors import PipelineInvalid
from pilothouse.pipelines.grpc_messages import SUCCESS, failed, pipeline_message, run_message
from pilothouse.pipelines.http.definitions import changed_fields, new_fields
from pilothouse.pipelines.http.runs import details, run_filters, run_request
from pilothouse.pipelines.http.specs import saved_answer
from pilothouse.pipelines.model import Pipeline
from pilothouse.pipelines.rights import allowed
from pilothouse.pipelines.service import Pipelines
from pilothouse.pipelines.specs import Save, Specs
from pilothouse.pipelines.specs_of_messages import SpecMessages
from pilothouse.pipelines.views import pipeline_detail, pipeline_details, status_words
from pilothouse.storage import Tx
from pilothouse.wire import entries
from pilothouse.wire.pipeline.v1 import pipeline_pb2 as pb
from pilothouse.wire.pipeline.v1 import pipeline_pb2_grpc, pipeline_spec_pb2
from pilothouse.wire.rest.pipeline_runs import StopRun, TriggerPipeline
from pilothouse.wire.rest.pipelines import CreatePipeline, UpdatePipeline
from pilothouse.wire.rest.specs import SaveSpec
from pilothouse.wire.specs import SpecFormat

MAX_STATUS = max(pb.PipelineStatus.values())
MAX_MESSAGE = 2 << 20
"""Bytes of a message with a spec."""
NAME = pb.DESCRIPTOR.services_by_name["PipelineService"].full_name
ENABLED = {1: True, 2: False}
"""``is_enabled`` of an update; 0 is not sent on the wire, so it changes nothing."""


def pipeline_rpc(
    calls: Calls,
    identity: Identity,
    pipelines: Pipelines,
    engine: Engine,
    specs: Specs,
    messages: SpecMessages,
) -> RpcService:
    """The service, to be added to the server."""
    service = PipelineService(calls, identity, pipelines, engine, specs, messages)
    large = ("ValidatePipelineSpec", "SavePipelineSpec", "TriggerPipeline")
    return RpcService(
        NAME,
        lambda server: pipeline_pb2_grpc.add_PipelineServiceServicer_to_server(service, server),
        max_message=dict.fromkeys(large, MAX_MESSAGE),
    )


class PipelineService(pipeline_pb2_grpc.PipelineServiceServicer):
    """For users; agents are refused."""

    def __init__(
        self,
        calls: Calls,
        identity: Identity,
        pipelines: Pipelines,
        engine: Engine,
        specs: Specs,
        messages: SpecMessages,
    ) -> None:
        self._calls = calls
        self._identity = identity
        self._pipelines = pipelines
        self._engine = engine
        self._specs = specs
        self._messages = messages

    # -- pipelines --------------------------------------------------------------------------------------

    async def CreatePipeline(
        self, request: pb.CreatePipelineRequest, context: Context
    ) -> pb.CreatePipelineResponse:
        """Errors: ``PIPELINE_ALREADY_EXISTS``, ``PROJECT_NOT_FOUND``, ``QUOTA_EXCEEDED``."""
        caller = await self._calls.caller(context, "pipeline.write")
        body = read(
            CreatePipeline,
            projectId=request.project_id,
            name=request.name,
            description=request.description,
            **_common(request),
        )

        async def create() -> pb.CreatePipelineResponse:
            project = await self._identity.project_id(caller, body.projectId)

            def use_case(tx: Tx, by: Principal) -> str:
                require(by, "pipeline.write", project)
                return _created(self._pipelines, self._specs, tx, by, project, body)

            made = await self._calls.change(context, "pipeline.write", use_case)
            return pb.CreatePipelineResponse(success=True, message=SUCCESS, pipeline_id=made)

        return await answered(failed(pb.CreatePipelineResponse), create())

    async def UpdatePipeline(
        self, request: pb.UpdatePipelineRequest, context: Context
    ) -> pb.UpdatePipelineResponse:
        """Empty fields keep their values. Errors: ``PIPELINE_NOT_FOUND``, ``PIPELINE_ALREADY_EXISTS``."""
        await self._calls.caller(context, "pipeline.write")
        pipeline_id = required_id("pipeline_id", request.pipeline_id)
        given = {"name": request.name, "description": request.description, **_common(request)}
        if request.is_enabled:
            enabled = ENABLED.get(request.is_enabled)
            if enabled is None:
                raise PipelineInvalid("is_enabled is 1, or 2 to disable the pipeline")
            given["isEnabled"] = int(enabled)
        given = {name: value for name, value in given.items() if value not in ("", {})}
        body = read(UpdatePipeline, **given)

        def use_case(tx: Tx, by: Principal) -> pb.UpdatePipelineResponse:
            allowed(tx.conn, by, pipeline_id, "pipeline.write")
            self._specs.git.check(self._pipelines.change(tx, by, pipeline_id, **changed_fields(body)))
            return pb.UpdatePipelineResponse(success=True, message=SUCCESS)

        return await answered(
            failed(pb.UpdatePipelineResponse), self._calls.change(context, "pipeline.write", use_case)
        )

    async def GetPipeline(self, request: pb.GetPipelineRequest, context: Context) -> pb.GetPipelineResponse:
        """Errors: ``PIPELINE_NOT_FOUND``."""
        caller = await self._calls.caller(context, "pipeline.read")
        pipeline_id = required_id("pipeline_id", request.pipeline_id)

        def show(conn: Connection) -> pb.GetPipelineResponse:
            view = pipeline_detail(conn, allowed(conn, caller, pipeline_id, "pipeline.read"))
            return pb.GetPipelineResponse(success=True, message=SUCCESS, pipeline=pipeline_message(view))

        return await answered(failed(pb.GetPipelineResponse), self._calls.storage.read(show))

    async def ListPipelines(
        self, request: pb.ListPipelinesRequest, context: Context
    ) -> pb.ListPipelinesResponse:
        """Those of the caller's projects, by name. ``status``: that of the newest run."""
        caller = await self._calls.caller(context, "pipeline.read")
        page = paging(request.page, request.page_size)
        status = known_number("status", request.status, MAX_STATUS)
        project = optional_id("project_id", request.project_id)
        name = bounded("name", request.name, 256)

        def show(conn: Connection) -> pb.ListPipelinesResponse:
            found, total = store.list_pipelines(
                conn,
                projects=caller.among,
                project=project,
                name=name,
                statuses=status_words(status) if status else None,
                page=page.page,
                size=page.limit,
            )
            shown = [pipeline_message(detail) for detail in pipeline_details(conn, found)]
            return pb.ListPipelinesResponse(pipelines=shown, **_page(page, total))

        return await self._calls.storage.read(show)

    async def DeletePipeline(
        self, request: pb.DeletePipelineRequest, context: Context
    ) -> pb.DeletePipelineResponse:
        """Its runs stay. Errors: ``PIPELINE_NOT_FOUND``."""
        await self._calls.caller(context, "pipeline.write")
        pipeline_id = required_id("pipeline_id", request.pipeline_id)

        def use_case(tx: Tx, by: Principal) -> pb.DeletePipelineResponse:
            allowed(tx.conn, by, pipeline_id, "pipeline.write")
            self._pipelines.delete(tx, by, pipeline_id)
            return pb.DeletePipelineResponse(success=True, message=SUCCESS)

        return await answered(
            failed(pb.DeletePipelineResponse), self._calls.change(context, "pipeline.write", use_case)
        )

    # -- runs -------------------------------------------------------------------------------------------

    async def TriggerPipeline(
        self, request: pb.TriggerPipelineRequest, context: Context
    ) -> pb.TriggerPipelineResponse:
        """The same ``request_id`` starts one run. Errors: those of ``POST …/trigger``."""
        caller = await self._calls.caller(context, "run.trigger")
        pipeline_id = required_id("pipeline_id", request.pipeline_id)
        body = read(
            TriggerPipeline,
            variables=dict(request.variables),
            requestId=request.request_id,
            checkout=request.checkout_blob,
            spec=request.spec_text or None,
        )

        async def trigger() -> pb.TriggerPipelineResponse:
            ready = await self._specs.ready(caller, pipeline_id, run_request(body))

            def use_case(tx: Tx, by: Principal) -> str:
                allowed(tx.conn, by, pipeline_id, "run.trigger")
                return ready.start(tx, by)

            try:
                run_id = await self._calls.change(context, "run.trigger", use_case)
            except SpecError as refusal:
                ready.discard()
                raise await ready.located(refusal) from None
            except BaseException:
                ready.discard()
                raise
            ready.discard_unless_started()
            return pb.TriggerPipelineResponse(success=True, message=SUCCESS, run_id=run_id)

        return await answered(failed(pb.TriggerPipelineResponse), trigger())

    async def StopPipeline(
        self, request: pb.StopPipelineRequest, context: Context
    ) -> pb.StopPipelineResponse:
        """Cancel a run; its cleanup steps still run. Errors: ``RUN_NOT_FOUND``, ``INVALID_STATE_TRANSITION``."""
        reason = request.reason

        def stop(tx: Tx, by: Principal, run_id: str) -> Run:
            return self._engine.cancel(tx, by, run_id, reason)

        answer: pb.StopPipelineResponse = await self._control(request, context, pb.StopPipelineResponse, stop)
        return answer

    async def PausePipeline(
        self, request: pb.PausePipelineRequest, context: Context
    ) -> pb.PausePipelineResponse:
        """Start no more steps of a run. Errors: ``RUN_NOT_FOUND``, ``INVALID_STATE_TRANSITION``."""
        pause = self._engine.pause
        answer: pb.PausePipelineResponse = await self._control(
            request, context, pb.PausePipelineResponse, pause
        )
        return answer

    async def ResumePipeline(
        self, request: pb.ResumePipelineRequest, context: Context
    ) -> pb.ResumePipelineResponse:
        """A paused run goes on. Errors: ``RUN_NOT_FOUND``, ``INVALID_STATE_TRANSITION``."""
        resume, kind = self._engine.resume, pb.ResumePipelineResponse
        answer: pb.ResumePipelineResponse = await self._control(request, context, kind, resume)
        return answer

    async def _control(
        self, request: Any, context: Context, answer: Any, act: Callable[[Tx, Principal, str], Run]
    ) -> Any:
        await self._calls.caller(context, "run.control")
        pipeline_id = optional_id("pipeline_id", request.pipeline_id)
        run_id = required_id("run_id", request.run_id)
        read(StopRun, reason=request.reason)

        def use_case(tx: Tx, by: Principal) -> Any:
            _run_of(tx.conn, by, run_id, "run.control", pipeline_id)
            act(tx, by, run_id)
            return answer(success=True, message=SUCCESS)

        return await answered(failed(answer), self._calls.change(context, "run.control", use_case))

    async def GetPipelineRun(
        self, request: pb.GetPipelineRunRequest, context: Context
    ) -> pb.GetPipelineRunResponse:
        """A run of any kind. Errors: ``RUN_NOT_FOUND``."""
        caller = await self._calls.caller(context, "run.read")
        run_id = required_id("run_id", request.run_id)

        def show(conn: Connection) -> pb.GetPipelineRunResponse:
            row = _run_of(conn, caller, run_id, "run.read")
            [view] = details(conn, [row], _pipeline_of(conn, row))
            return pb.GetPipelineRunResponse(success=True, message=SUCCESS, run=run_message(view))

        return await answered(failed(pb.GetPipelineRunResponse), self._calls.storage.read(show))

    async def ListPipelineRuns(
        self, request: pb.ListPipelineRunsRequest, context: Context
    ) -> pb.ListPipelineRunsResponse:
        """Newest first: those of a pipeline, or of all pipelines that the caller may see."""
        caller = await self._calls.caller(context, "run.read")
        page = paging(request.page, request.page_size)
        status = known_number("status", request.status, MAX_STATUS)
        pipeline_id = optional_id("pipeline_id", request.pipeline_id)

        def show(conn: Connection) -> pb.ListPipelineRunsResponse:
            filters, paused = run_filters(status)
            if pipeline_id:
                allowed(conn, caller, pipeline_id, "run.read")
                filters["pipeline_id"] = pipeline_id
            else:
                filters["kind"] = "pipeline"
            rows, total = list_store.list_runs(
                conn,
                filters=filters,
                projects=caller.among,
                page=page.page,
                limit=page.limit,
                paused=paused,
            )
            of = {row.pipeline_id or row.id: _pipeline_of(conn, row) for row in rows}
            views = [details(conn, [row], of[row.pipeline_id or row.id])[0] for row in rows]
            return pb.ListPipelineRunsResponse(
                runs=[run_message(view) for view in views], **_page(page, total)
            )

        return await self._calls.storage.read(show)

    # -- specs ------------------------------------------------------------------------------------------

    async def GetPipelineSpec(
        self, request: pb.GetPipelineSpecRequest, context: Context
    ) -> pb.GetPipelineSpecResponse:
        """The current spec. Errors: ``PIPELINE_NOT_FOUND``, ``SPEC_NOT_FOUND``."""
        caller = await self._calls.caller(context, "pipeline.read")
        pipeline_id = required_id("pipeline_id", request.pipeline_id)

        async def show() -> pb.GetPipelineSpecResponse:
            found = await self._specs.shown(caller, pipeline_id)
            return pb.GetPipelineSpecResponse(
                success=True,
                message=SUCCESS,
                spec=await self._messages.message(caller, found.spec),
                format=pb.SpecFormat.ValueType(int(found.format)),
                head_commit_sha=found.head,
                branch=found.branch,
                pipeline_file_path=found.file,
            )

        return await answered(failed(pb.GetPipelineSpecResponse), show())

    async def ValidatePipelineSpec(
        self, request: pb.ValidatePipelineSpecRequest, context: Context
    ) -> pb.ValidatePipelineSpecResponse:
        """For a pipeline, if one is named. Errors: ``PIPELINE_NOT_FOUND``, ``SPEC_INVALID`` with all problems."""
        caller = await self._calls.caller(context, "pipeline.read")
        pipeline_id = optional_id("pipeline_id", request.pipeline_id)
        spec = _given_spec(request)

        async def check() -> pb.ValidatePipelineSpecResponse:
            file = ""
            if pipeline_id:
                file = await self._calls.storage.read(
                    lambda conn: allowed(conn, caller, pipeline_id, "pipeline.read").file_path
                )
            source = await self._messages.source(caller, spec, as_yaml=request.format == pb.SPEC_FORMAT_YAML)
            checked = await self._specs.compiler.check(caller, source, file)
            warnings = [warning.describe(file or "<spec>") for warning in checked.warnings]
            return pb.ValidatePipelineSpecResponse(
                success=True, message=SUCCESS, jobs_count=checked.jobs, warnings=warnings
            )

        return await answered(failed(pb.ValidatePipelineSpecResponse), check())

    async def SavePipelineSpec(
        self, request: pb.SavePipelineSpecRequest, context: Context
    ) -> pb.SavePipelineSpecResponse:
        """The same ``request_id`` saves once. Errors: ``PIPELINE_NOT_FOUND``, ``SPEC_INVALID``, ``SPEC_CONFLICT``."""
        caller = await self._calls.caller(context, "pipeline.write")
        pipeline_id = required_id("pipeline_id", request.pipeline_id)
        spec = _given_spec(request)
        body = read(
            SaveSpec,
            spec="",
            expectedHeadCommitSha=request.expected_head_commit_sha,
            commitMessage=request.commit_message,
            requestId=request.request_id,
        )
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()

        async def save() -> pb.SavePipelineSpecResponse:
            def permit(conn: Connection, by: Principal) -> Pipeline:
                return allowed(conn, by, pipeline_id, "pipeline.write")

            source = await self._messages.source(caller, spec, as_yaml=request.format == pb.SPEC_FORMAT_YAML)
            wanted = Save(source, expected_head=body.expectedHeadCommitSha, message=body.commitMessage)
            saving = await self._specs.save(caller, pipeline_id, wanted)

            def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
                return saved_answer(saving(tx, by))

            asked = (f"/{NAME}/SavePipelineSpec", digest.hex().encode())
            made = await self._calls.once(context, "pipeline.write", body.requestId, asked, permit, use_case)
            return pb.SavePipelineSpecResponse(
                success=True,
                message=SUCCESS,
                commit_sha=made["commitSha"],
                branch=made["branch"],
                save_mode=made["saveMode"],
                pr_url=made["prUrl"],
                pr_branch=made["prBranch"],
            )

        return await answered(failed(pb.SavePipelineSpecResponse), save())


def _created(
    pipelines: Pipelines, specs: Specs, tx: Tx, by: Principal, project: str, body: CreatePipeline
) -> str:
    made = pipelines.create(tx, by, project, body.name, **new_fields(body, specs.git))
    specs.git.check(made)
    return made.id


def _common(request: Any) -> dict[str, Any]:
    """The fields that creating and changing a pipeline have in common, under their names in the routes' bodies."""
    return {
        "repoUrl": request.repo_url,
        "defaultBranch": request.default_branch,
        "pipelineFilePath": request.pipeline_file_path,
        **({"saveMode": request.save_mode} if request.save_mode else {}),
        "prTargetBranch": request.pr_target_branch,
        "metadata": dict(request.metadata),
    }


def _given_spec(request: Any) -> pipeline_spec_pb2.Spec:
    known_number("format", request.format, max(SpecFormat))
    if not request.HasField("spec"):
        raise Refusal.of("MISSING_REQUIRED_FIELD", "spec is missing", field="spec")
    spec: pipeline_spec_pb2.Spec = request.spec
    return spec


def _page(page: Paging, total: int) -> dict[str, Any]:
    return {"success": True, "message": SUCCESS, "total": total, "page": page.page, "page_size": page.limit}


def _run_of(conn: Connection, caller: Principal, run_id: str, action: str, pipeline_id: str = "") -> Row[Any]:
    """The row of a run (of that pipeline) with which the caller may do ``action``, or ``RUN_NOT_FOUND``."""
    row = run_row(conn, run_id)
    if row is None or not caller.sees(entries.project_scope(row.project)):
        raise RunNotFound(run_id)
    if pipeline_id not in ("", row.pipeline_id or row.id):
        raise RunNotFound(run_id)
    require(caller, action, row.project)
    return row


def _pipeline_of(conn: Connection, row: Row[Any]) -> Pipeline:
    """The pipeline of a run; of runs of other kinds, and if it was deleted, what the run says of it."""
    known = store.pipeline(conn, row.pipeline_id) if row.pipeline_id else None
    return known or Pipeline(id=row.pipeline_id or row.id, project=row.project, name=row.name)
