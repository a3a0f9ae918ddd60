"""``GET /asyncapi.json``: the AsyncAPI document of all streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from pilothouse.edge.asyncapi import Channel, document
from pilothouse.edge.services import provided
from pilothouse.edge.web import public

router = APIRouter(tags=["operations"])


@dataclass(slots=True)
class AsyncApi:
    """The document of these channels, made when it is first asked for; ``shown``: the page of ``stream_docs.py``."""

    channels: tuple[Channel, ...]
    shown: str = ""
    _made: bytes = b""

    def document(self) -> bytes:
        """As JSON."""
        if not self._made:
            self._made = orjson.dumps(document(self.channels))
        return self._made


AsyncApiService = Annotated[AsyncApi, provided(AsyncApi)]


@router.get("/asyncapi.json", dependencies=[public()], include_in_schema=False)
async def get_asyncapi(service: AsyncApiService) -> Response:
    """The streams, their messages and who may follow them."""
    return Response(service.document(), media_type="application/json")
