"""The base class of request bodies."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Body(BaseModel):
    """A JSON object with strictly typed values: ``"60"`` is not a number, ``"true"`` is not a boolean.

    NaN and infinite numbers, which Python accepts in JSON, are refused.
    """

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _finite(cls, body: Any) -> Any:
        waiting = [body]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                waiting.extend(value.values())
            elif isinstance(value, list):
                waiting.extend(value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError("A number is NaN or too large")
        return body
