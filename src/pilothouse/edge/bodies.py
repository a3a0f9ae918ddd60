"""What the JSON body of a request is read into."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Body(BaseModel):
    """A JSON object whose values have the types they should: ``"60"`` is no number, ``"true"`` no boolean.

    NaN and infinite numbers, which Python reads from JSON, are refused wherever they are.
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
