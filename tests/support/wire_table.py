"""Protobuf messages made from the contract's wire table alone, not from our generated code.

What speaks through these messages is a client that knows nothing but the published facts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pool, message_factory, struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

TABLE = Path(__file__).parent.parent / "contract" / "wire_table.txt"
_SCALARS = {
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
}
_METHOD = re.compile(r"  (\w+)\((stream )?(\S+)\) -> (stream )?(\S+)")
_FIELD = re.compile(r"  (\d+) (\w+): (?:(repeated) )?([\w.]+|map<\w+,[\w.]+>)(?: \(oneof (\w+)\))?")


class Table:
    """The table as a pool of messages and a list of methods."""

    def __init__(self, text: str) -> None:
        self.methods: dict[str, tuple[str, str, bool, bool]] = {}
        """``package.Service/Method`` to request, answer, and whether each is a stream."""
        self._file = FileDescriptorProto()
        self._files: list[FileDescriptorProto] = []
        self._enums: set[str] = set()
        self._read(text)
        self._pool = self._build()

    def message(self, name: str) -> type[Any]:
        """The class of a message by its full name."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))

    def number(self, enum: str, value: str) -> int:
        """The number of an enum's value."""
        return int(self._pool.FindEnumTypeByName(enum).values_by_name[value].number)

    def rpc(self, channel: grpc.Channel | grpc.aio.Channel, method: str) -> Callable[..., Any]:
        """A method, ready to be called."""
        _, answers, asks_stream, answers_stream = self.methods[method]
        kind = f"{'stream' if asks_stream else 'unary'}_{'stream' if answers_stream else 'unary'}"
        call: Callable[..., Any] = getattr(channel, kind)(
            f"/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=self.message(answers).FromString,
        )
        return call

    def _read(self, text: str) -> None:
        package, service, fields_of = "", "", DescriptorProto()
        for line in text.splitlines():
            if match := re.fullmatch(r"## package (\S+) \((\S+)\)", line):
                package = match[1]
                self._file = FileDescriptorProto(name=match[2], package=package, syntax="proto3")
                self._files.append(self._file)
            elif match := re.fullmatch(r"service (\w+)", line):
                service = f"{package}.{match[1]}"
            elif match := re.fullmatch(r"message (\w+)", line):
                fields_of = self._file.message_type.add(name=match[1])
            elif match := re.fullmatch(r"enum ([\w.]+): (.+)", line):
                self._enum(package, match[1], match[2])
            elif match := _METHOD.fullmatch(line):
                self.methods[f"{service}/{match[1]}"] = (match[3], match[5], bool(match[2]), bool(match[4]))
            elif match := _FIELD.fullmatch(line):
                _field(fields_of, *match.groups())
            elif line and not line.startswith("#"):
                raise ValueError(f"not a fact: {line!r}")

    def _enum(self, package: str, name: str, values: str) -> None:
        outer, _, inner = name.rpartition(".")
        home = next((m for m in self._file.message_type if m.name == outer), self._file)
        enum = home.enum_type.add(name=inner)
        for value in values.split(", "):
            number, _, label = value.partition("=")
            enum.value.add(name=label, number=int(number))
        self._enums.add(f"{package}.{name}")

    def _build(self) -> descriptor_pool.DescriptorPool:
        pool = descriptor_pool.DescriptorPool()
        for known in (struct_pb2.DESCRIPTOR, timestamp_pb2.DESCRIPTOR):
            pool.AddSerializedFile(known.serialized_pb)
        names = [file.name for file in self._files]
        for file in self._files:
            _settle(file.message_type, self._enums)
            homes = {"google/protobuf/struct.proto", "google/protobuf/timestamp.proto"}
            file.dependency.extend(homes | (_needed(file, self._files) & set(names)))
            pool.AddSerializedFile(file.SerializeToString())
        return pool


def _field(
    message: DescriptorProto, number: str, name: str, repeated: str | None, kind: str, oneof: str | None
) -> None:
    field = message.field.add(name=name, number=int(number), label=FieldDescriptorProto.LABEL_OPTIONAL)
    if repeated or kind.startswith("map<"):
        field.label = FieldDescriptorProto.LABEL_REPEATED
    if kind.startswith("map<"):
        entry = message.nested_type.add(name="".join(p.title() for p in name.split("_")) + "Entry")
        entry.options.map_entry = True
        for at, (part, inner) in enumerate(zip(("key", "value"), kind[4:-1].split(","), strict=True), 1):
            _field(entry, str(at), part, None, inner, None)
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, entry.name
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type_name = f".{kind}"
    if oneof:
        known = [declared.name for declared in message.oneof_decl]
        if oneof not in known:
            message.oneof_decl.add(name=oneof)
            known.append(oneof)
        field.oneof_index = known.index(oneof)


def _settle(messages: Any, enums: set[str]) -> None:
    """A name alone does not tell an enum from a message; now all names are known."""
    for message in messages:
        _settle(message.nested_type, enums)
        for field in message.field:
            if field.type_name.startswith("."):
                is_enum = field.type_name[1:] in enums
                field.type = FieldDescriptorProto.TYPE_ENUM if is_enum else FieldDescriptorProto.TYPE_MESSAGE


def _needed(file: FileDescriptorProto, files: list[FileDescriptorProto]) -> set[str]:
    """The files whose names this one uses."""
    homes = {
        f".{other.package}.{thing.name}": other.name
        for other in files
        for thing in [*other.message_type, *other.enum_type]
    }
    used = {field.type_name for message in file.message_type for field in message.field}
    return {homes[name] for name in used if name in homes} - {file.name}


@cache
def table() -> Table:
    """The contract's table."""
    return Table(TABLE.read_text("utf-8"))
