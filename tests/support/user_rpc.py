"""A user's gRPC client, made from the contract's wire table alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import json_format

from support.server import Server
from support.waiting import PATIENCE
from support.wire_table import table


class UserRpc:
    """Calls unary RPCs of one service as a user."""

    def __init__(self, server: Server, channel: grpc.Channel, service: str) -> None:
        self._server, self._channel, self._service = server, channel, service

    def __call__(self, method: str, token: str | None = "admin", **fields: Any) -> Any:
        """The answer. ``fields`` in the JSON form of the message; ``token``: of this user, or a token."""
        name = f"{self._service}/{method}"
        request = json_format.ParseDict(fields, table().message(table().methods[name][0])())
        if token == "admin":
            token = self._server.admin
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return table().rpc(self._channel, name)(request, metadata=metadata, timeout=PATIENCE)

    def refused(self, method: str, token: str | None = "admin", **fields: Any) -> str:
        """The name of the status that a call is refused with, or ``OK``."""
        try:
            self(method, token, **fields)
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
        return "OK"


@contextmanager
def user_rpc(server: Server, service: str) -> Iterator[UserRpc]:
    """A client on a channel of its own."""
    with grpc.insecure_channel(server.grpc) as channel:
        yield UserRpc(server, channel, service)
