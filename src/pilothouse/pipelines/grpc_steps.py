"""steprun.v1.StepRunService: the step runs of runs of every kind (arcentra-wire.txt, decisions.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.struct_pb2 import Struct
from sqlalchemy import Connection

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.edge.calls import Calls, answered, bounded, known_number, optional_id, paging, required_id
from pilothouse.edge.grpc import Context
from pilothouse.edge.module import RpcService
from pilothouse.engine.control import Control
from pilothouse.engine.errors import RunNotFound
from pilothouse.engine.grpc_steps import STATUS_OF, list_step_runs, step_run_detail
from pilothouse.engine.model import Job, Run
from pilothouse.engine.step_artifacts import StepArtifact, StepArtifacts
from pilothouse.engine.step_run_store import Wanted
from pilothouse.engine.step_runs import StepRuns, visible, visible_job
from pilothouse.engine.store import run_row
from pilothouse.pipelines.errors import PipelineInvalid
from pilothouse.pipelines.grpc_messages import SUCCESS, error_details
from pilothouse.pipelines.step_source import StepCompiler
from pilothouse.storage import Tx
from pilothouse.wire import entries
from pilothouse.wire.steprun.v1 import steprun_pb2 as pb
from pilothouse.wire.steprun.v1 import steprun_pb2_grpc

MAX_REASON = 500
NAME = pb.DESCRIPTOR.services_by_name["StepRunService"].full_name


def step_run_rpc(service: StepRunService) -> RpcService:
    """The service, to be added to the server."""
    return RpcService(
        NAME, lambda server: steprun_pb2_grpc.add_StepRunServiceServicer_to_server(service, server)
    )


class StepRunService(steprun_pb2_grpc.StepRunServiceServicer):
    """For users; agents are refused."""

    def __init__(
        self,
        calls: Calls,
        step_runs: StepRuns,
        control: Control,
        artifacts: StepArtifacts,
        compiler: StepCompiler,
    ) -> None:
        self._calls = calls
        self._step_runs = step_runs
        self._control = control
        self._artifacts = artifacts
        self._compiler = compiler

    async def CreateStepRun(
        self, request: pb.CreateStepRunRequest, context: Context
    ) -> pb.CreateStepRunResponse:
        """Append a step to a job that has not ended.

        Errors: ``RUN_NOT_FOUND``, ``JOB_NOT_FOUND``, ``SPEC_INVALID``, ``INVALID_STATE_TRANSITION``.
        """
        caller = await self._calls.caller(context, "run.trigger")
        run_id = required_id("pipeline_run_id", request.pipeline_run_id)
        job_id, job_name = optional_id("job_id", request.job_id), optional_id("job_name", request.job_name)
        pipeline_id = optional_id("pipeline_id", request.pipeline_id)
        if not job_id and not job_name:
            raise Refusal.of("MISSING_REQUIRED_FIELD", "job_id or job_name is missing", field="job_id")

        def find(conn: Connection, by: Principal) -> tuple[Run, Job]:
            run, job = visible_job(conn, by, run_id, job_id, job_name, "run.trigger")
            if pipeline_id not in ("", run.pipeline_id or run.id):
                raise RunNotFound(run_id)
            if request.step_index not in (0, len(job.steps)):
                raise PipelineInvalid(f"step_index is left out, or that of the next step: {len(job.steps)}")
            return run, job

        async def create() -> pb.CreateStepRunResponse:
            run, job = await self._calls.storage.read(lambda conn: find(conn, caller))
            step = await self._compiler.step(caller, request, run, job)

            def use_case(tx: Tx, by: Principal) -> str:
                find(tx.conn, by)
                return self._step_runs.create(tx, by, run_id, job.name, step)

            made = await self._calls.change(context, "run.trigger", use_case)
            return pb.CreateStepRunResponse(success=True, message=SUCCESS, step_run_id=made)

        return await answered(_failed(pb.CreateStepRunResponse), create())

    async def GetStepRun(self, request: pb.GetStepRunRequest, context: Context) -> pb.GetStepRunResponse:
        """Errors: ``STEP_RUN_NOT_FOUND``."""
        caller = await self._calls.caller(context, "run.read")
        step_run_id = required_id("step_run_id", request.step_run_id)

        def show(conn: Connection) -> pb.GetStepRunResponse:
            found = step_run_detail(conn, visible(conn, caller, step_run_id, "run.read"))
            return pb.GetStepRunResponse(success=True, message=SUCCESS, step_run=found)

        return await answered(_failed(pb.GetStepRunResponse), self._calls.storage.read(show))

    async def ListStepRuns(
        self, request: pb.ListStepRunsRequest, context: Context
    ) -> pb.ListStepRunsResponse:
        """Of a run all its step runs; otherwise those that were queued at least once (``list_step_runs``)."""
        caller = await self._calls.caller(context, "run.read")
        page = paging(request.page, request.page_size)
        status = known_number("status", request.status, max(STATUS_OF))
        wanted = Wanted(
            projects=caller.among,
            pipeline_id=optional_id("pipeline_id", request.pipeline_id),
            run_id=optional_id("pipeline_run_id", request.pipeline_run_id),
            job_id=optional_id("job_id", request.job_id),
            job_name=optional_id("job_name", request.job_name),
            step_name=optional_id("step_name", request.step_name),
            status=STATUS_OF[status] if status else None,
            agent_id=optional_id("agent_id", request.agent_id),
        )
        sort_by = bounded("sort_by", request.sort_by, 64)

        def show(conn: Connection) -> pb.ListStepRunsResponse:
            if wanted.run_id:
                row = run_row(conn, wanted.run_id)
                if row is None or not caller.sees(entries.project_scope(row.project)):
                    raise RunNotFound(wanted.run_id)
            found, total = list_step_runs(conn, wanted, page, sort_by, request.sort_desc)
            return pb.ListStepRunsResponse(
                success=True,
                message=SUCCESS,
                step_runs=found,
                total=total,
                page=page.page,
                page_size=page.limit,
            )

        return await self._calls.storage.read_much(show)

    async def UpdateStepRun(
        self, request: pb.UpdateStepRunRequest, context: Context
    ) -> pb.UpdateStepRunResponse:
        """Of a step that was not handed out yet, ``env`` (as a whole) and ``timeout``, where given.

        Errors: ``STEP_RUN_NOT_FOUND``, ``SPEC_INVALID``, ``INVALID_STATE_TRANSITION``.
        """
        caller = await self._calls.caller(context, "run.control")
        step_run_id = required_id("step_run_id", request.step_run_id)
        if not request.env and not request.timeout:
            raise Refusal.of("MISSING_REQUIRED_FIELD", "env or timeout is missing", field="env")

        async def update() -> pb.UpdateStepRunResponse:
            at = await self._calls.storage.read(
                lambda conn: visible(conn, caller, step_run_id, "run.control")
            )
            fields = await self._compiler.changed(caller, request, at.run, at.job)

            def use_case(tx: Tx, by: Principal) -> pb.UpdateStepRunResponse:
                self._step_runs.update(tx, by, step_run_id, **fields)
                return pb.UpdateStepRunResponse(success=True, message=SUCCESS)

            return await self._calls.change(context, "run.control", use_case)

        return await answered(_failed(pb.UpdateStepRunResponse), update())

    async def DeleteStepRun(
        self, request: pb.DeleteStepRunRequest, context: Context
    ) -> pb.DeleteStepRunResponse:
        """A step that was not handed out yet is skipped. Errors as :meth:`UpdateStepRun`."""
        await self._calls.caller(context, "run.control")
        step_run_id = required_id("step_run_id", request.step_run_id)

        def use_case(tx: Tx, by: Principal) -> pb.DeleteStepRunResponse:
            self._step_runs.delete(tx, by, step_run_id)
            return pb.DeleteStepRunResponse(success=True, message=SUCCESS)

        changing = self._calls.change(context, "run.control", use_case)
        return await answered(_failed(pb.DeleteStepRunResponse), changing)

    async def CancelStepRun(
        self, request: pb.CancelStepRunRequest, context: Context
    ) -> pb.CancelStepRunResponse:
        """Stop a step run. Errors: ``STEP_RUN_NOT_FOUND``, ``INVALID_STATE_TRANSITION``."""
        await self._calls.caller(context, "run.control")
        step_run_id = required_id("step_run_id", request.step_run_id)
        reason = bounded("reason", request.reason, MAX_REASON)

        def use_case(tx: Tx, by: Principal) -> pb.CancelStepRunResponse:
            self._control.cancel_step_run(tx, by, step_run_id, reason)
            return pb.CancelStepRunResponse(success=True, message=SUCCESS)

        changing = self._calls.change(context, "run.control", use_case)
        return await answered(_failed(pb.CancelStepRunResponse), changing)

    async def RetryStepRun(
        self, request: pb.RetryStepRunRequest, context: Context
    ) -> pb.RetryStepRunResponse:
        """Try a step that failed again, and what depends on it. Errors: ``STEP_RUN_NOT_FOUND``,
        ``INVALID_STATE_TRANSITION``, ``PIPELINE_DISABLED``, ``QUOTA_EXCEEDED``.
        """
        await self._calls.caller(context, "run.trigger")
        step_run_id = required_id("step_run_id", request.step_run_id)

        def use_case(tx: Tx, by: Principal) -> pb.RetryStepRunResponse:
            made = self._step_runs.retry(tx, by, step_run_id)
            return pb.RetryStepRunResponse(success=True, message=SUCCESS, new_step_run_id=made)

        changing = self._calls.change(context, "run.trigger", use_case)
        return await answered(_failed(pb.RetryStepRunResponse), changing)

    async def ListStepRunArtifacts(
        self, request: pb.ListStepRunArtifactsRequest, context: Context
    ) -> pb.ListStepRunArtifactsResponse:
        """Finished artifacts; ``download_url`` is a path of this server (a link's: its own address) that needs no
        token and can be used for 15 minutes. Errors: ``STEP_RUN_NOT_FOUND``."""
        caller = await self._calls.caller(context, "run.read")
        step_run_id = required_id("step_run_id", request.step_run_id)

        def show(conn: Connection) -> pb.ListStepRunArtifactsResponse:
            visible(conn, caller, step_run_id, "run.read")
            found = [_artifact(one) for one in self._artifacts.of(conn, caller, step_run_id)]
            return pb.ListStepRunArtifactsResponse(success=True, message=SUCCESS, artifacts=found)

        return await answered(_failed(pb.ListStepRunArtifactsResponse), self._calls.storage.read(show))


def _artifact(artifact: StepArtifact) -> pb.Artifact:
    return pb.Artifact(
        artifact_id=artifact.id,
        name=artifact.name,
        path=artifact.path,
        size=artifact.size,
        download_url=artifact.download_url,
        created_at=artifact.created_at // 1000,
        expire_at=artifact.expire_at // 1000,
    )


def _failed(answer: Callable[..., Any]) -> Callable[[Refusal], Any]:
    def made(error: Refusal) -> Any:
        details: Struct | None = error_details(error)
        described = pb.Error(code=error.status, message=error.message, type=error.code, details=details)
        return answer(success=False, message=error.message, error=described)

    return made
