"""The views of pipelines as messages of pipeline.v1, and refusals as its errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from pilothouse.access.errors import Refusal
from pilothouse.wire.pipeline.v1 import pipeline_error_pb2
from pilothouse.wire.pipeline.v1 import pipeline_pb2 as pb

M = TypeVar("M", bound=Message)
R = TypeVar("R")

SUCCESS = "success"


def pipeline_message(view: Mapping[str, Any]) -> pb.PipelineDetail:
    """A view of a pipeline (``views.pipeline_detail``)."""
    return _message(pb.PipelineDetail, view)


def run_message(view: Mapping[str, Any]) -> pb.PipelineRunDetail:
    """A view of a run (``views.run_detail``)."""
    return _message(pb.PipelineRunDetail, view)


def failed(answer: Callable[..., R]) -> Callable[[Refusal], R]:
    """What makes an answer with ``success=false`` of a refusal: its HTTP status, message, code and details."""

    def made(error: Refusal) -> R:
        described = pipeline_error_pb2.Error(
            code=error.status, message=error.message, type=error.code, details=error_details(error)
        )
        return answer(success=False, message=error.message, error=described)

    return made


def error_details(error: Refusal) -> Struct | None:
    """The details of an error, such as the problems of a spec."""
    return json_format.ParseDict(error.details, Struct()) if error.details else None


def _message(kind: type[M], view: Mapping[str, Any]) -> M:
    known = kind.DESCRIPTOR.fields_by_name
    fields = {re.sub(r"(?=[A-Z])", "_", name).lower(): value for name, value in view.items()}
    return kind(**{name: value for name, value in fields.items() if name in known})
