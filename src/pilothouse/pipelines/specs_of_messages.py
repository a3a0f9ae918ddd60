"""Specs in messages of pipeline.v1, converted in the worker pool; this is the server's side of it."""

from __future__ import annotations

from pilothouse.access.model import Principal
from pilothouse.pipelines.compiled import Spec
from pilothouse.pipelines.compiler import LIMITS
from pilothouse.pipelines.errors import PipelineInvalid
from pilothouse.pipelines.grpc_specs import DONE, spec_message, spec_source
from pilothouse.wire.pipeline.v1 import pipeline_spec_pb2 as pb
from pilothouse.wire.specs import EncodedSpec
from pilothouse.workers.pool import Pool

JOBS = (spec_source, spec_message)


class SpecMessages:
    """Both methods raise :class:`PipelineInvalid`, and WorkError (:mod:`pilothouse.edge.work`)."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def source(self, caller: Principal, spec: pb.Spec, *, as_yaml: bool = False) -> Spec:
        """A spec as it is compiled and saved: JSON, or a YAML text."""
        message = spec.SerializeToString()
        done, found = await self._pool.run(spec_source, message, as_yaml, caller=caller.key, limits=LIMITS)
        assert isinstance(found, bytes), "the job returns bytes"
        if done != DONE:
            raise PipelineInvalid(found.decode())
        return found.decode() if as_yaml else EncodedSpec("object", found)

    async def message(self, caller: Principal, spec: str) -> pb.Spec:
        """The message of a canonical spec (``CompiledSpec.spec``)."""
        done, found = await self._pool.run(spec_message, spec.encode(), caller=caller.key, limits=LIMITS)
        assert isinstance(found, bytes), "the job returns bytes"
        if done != DONE:
            raise PipelineInvalid(found.decode())
        return pb.Spec.FromString(found)
