"""A plugin of protoc and buf that writes gRPC stubs for Python, with the generator inside grpcio-tools.

That generator is no program of its own, which buf could call.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.compiler import plugin_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet


def main() -> None:
    """Read a CodeGeneratorRequest from stdin, and write a CodeGeneratorResponse to stdout."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    with tempfile.TemporaryDirectory() as scratch:
        descriptors, out = Path(scratch, "all.binpb"), Path(scratch, "out")
        descriptors.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        out.mkdir()
        protoc = (sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={descriptors}")
        files = [name for name in request.file_to_generate if _has_services(request, name)]
        if files:
            subprocess.run([*protoc, f"--grpc_python_out={out}", *files], check=True, stdout=sys.stderr)
        for path in sorted(out.rglob("*.py")):
            response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text("utf-8"))
    sys.stdout.buffer.write(response.SerializeToString())


def _has_services(request: plugin_pb2.CodeGeneratorRequest, name: str) -> bool:
    return any(file.service for file in request.proto_file if file.name == name)


main()
