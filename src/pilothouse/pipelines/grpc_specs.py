"""Specs between pipeline.v1.Spec and JSON. Run in the worker pool: a spec has many thousand parts."""

from __future__ import annotations

from typing import Any

import orjson
from google.protobuf import json_format

from pilothouse.wire.pipeline.v1 import pipeline_spec_pb2 as pb

DONE, REFUSED = "done", "refused"


def spec_source(message: bytes, as_yaml: bool) -> tuple[str | bytes, ...]:
    """The source text of a serialized Spec: compact JSON, or YAML. ``REFUSED``, with the reason, if it has none."""
    try:
        spec: dict[str, Any] = json_format.MessageToDict(pb.Spec.FromString(message))
        if as_yaml:
            import yaml

            dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
            return DONE, yaml.dump(spec, Dumper=dumper, sort_keys=False, allow_unicode=True).encode()
        return DONE, orjson.dumps(spec)
    except (json_format.Error, ValueError, TypeError, RecursionError) as error:
        return REFUSED, f"the spec has no JSON form: {str(error)[:200]}".encode()


def spec_message(spec: bytes) -> tuple[str | bytes, ...]:
    """The canonical JSON of a spec as a serialized Spec."""
    try:
        return DONE, json_format.ParseDict(orjson.loads(spec), pb.Spec()).SerializeToString()
    except (json_format.Error, ValueError, OverflowError) as error:
        return REFUSED, f"the spec does not fit into a message: {str(error)[:200]}".encode()
