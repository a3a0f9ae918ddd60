"""Reference of log lines: the same service on the same gRPC stack; discards every batch."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import uvloop

from bench.server import execute_commands, standard_input
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.agent.v1 import agent_pb2_grpc
from pilothouse.wire.gateway.v1 import gateway_pb2 as gw
from pilothouse.wire.gateway.v1 import gateway_pb2_grpc


class Agents(agent_pb2_grpc.AgentServiceServicer):
    """Accepts all agents and assigns no work."""

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.RegisterResponse:
        """Yes."""
        return pb.RegisterResponse(success=True, auth_token="none")

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: Any
    ) -> AsyncIterator[pb.ConnectResponse]:
        """A command stream without commands."""
        async for request in request_iterator:
            if request.request_id:
                yield pb.ConnectResponse()


class Gateway(gateway_pb2_grpc.GatewayServiceServicer):
    """Discards."""

    async def PushLogs(
        self, request_iterator: AsyncIterator[gw.PushLogsRequest], context: Any
    ) -> gw.PushLogsResponse:
        """Read and discard all batches."""
        async for _ in request_iterator:
            pass
        return gw.PushLogsResponse(ack=gw.IngestAck(status=gw.IngestAck.STATUS_ACCEPTED))


async def main() -> None:
    """Run until stdin is closed."""
    server = grpc.aio.server()
    agent_pb2_grpc.add_AgentServiceServicer_to_server(Agents(), server)  # type: ignore[abstract]  # two calls
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(Gateway(), server)  # type: ignore[abstract]  # one
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"grpc": f"127.0.0.1:{port}"}), flush=True)
    await execute_commands(await standard_input(), {})
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(main())
