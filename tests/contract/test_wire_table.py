"""Our gRPC definitions against the facts of the contract page (wire_table.txt).

The live descriptors of the generated modules are written out in the grammar of the table and compared line by
line. What the contract names must be there as it stands; what is ours must be numbered from 1000 up, and what
of it was once published (wire_additions.txt) must stay as it is, or older agents would misread us.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

HERE = Path(__file__).parent
OURS_FROM = 1000

# ("agent/v1/agent.proto", "message agent.v1.TaskAck") -> {"1 command_id: string", ...}
Facts = dict[tuple[str, str], set[str]]


def parse(text: str) -> Facts:
    """Parse a table. An unknown line is an error, so that every fact is checked."""
    facts: Facts = {}
    place = package = heading = ""
    for line in filter(None, text.splitlines()):
        if line.startswith("# "):
            continue
        if match := re.fullmatch(r"## package (\S+) \((\S+)\)", line):
            package, place = match.groups()
            heading = f"package {package}"
            facts[place, heading] = set()
        elif match := re.fullmatch(r"(service|message) (\w+)", line):
            heading = f"{match[1]} {package}.{match[2]}"
            facts[place, heading] = set()
        elif match := re.fullmatch(r"enum ([\w.]+): (.+)", line):
            facts[place, f"enum {package}.{match[1]}"] = set(match[2].split(", "))
        elif re.fullmatch(r"  (\d+ \w+: \S.*|\w+\(.+\) -> .+)", line):
            facts[place, heading].add(line.strip())
        else:
            raise ValueError(f"not a fact: {line!r}")
    return facts


def describe(file: FileDescriptor) -> Facts:
    """The same for what protobuf has registered under a file's name."""
    facts: Facts = {(file.name, f"package {file.package}"): set()}
    for service in file.services_by_name.values():
        lines = set()
        for method in service.methods:
            asks = ("stream " if method.client_streaming else "") + method.input_type.full_name
            answers = ("stream " if method.server_streaming else "") + method.output_type.full_name
            lines.add(f"{method.name}({asks}) -> {answers}")
        facts[file.name, f"service {service.full_name}"] = lines
    for message in with_nested(file.message_types_by_name.values()):
        facts[file.name, f"message {message.full_name}"] = {describe_field(f) for f in message.fields}
        facts |= {(file.name, f"enum {e.full_name}"): describe_enum(e) for e in message.enum_types}
    for enum in file.enum_types_by_name.values():
        facts[file.name, f"enum {enum.full_name}"] = describe_enum(enum)
    return facts


def with_nested(messages: Iterable[Descriptor]) -> Iterator[Descriptor]:
    for message in messages:
        if not message.GetOptions().map_entry:
            yield message
            yield from with_nested(message.nested_types)


def describe_enum(enum: EnumDescriptor) -> set[str]:
    return {f"{value.number}={value.name}" for value in enum.values}


def describe_field(field: FieldDescriptor) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        kind = f"map<{type_name(key)},{type_name(value)}>"
    else:
        kind = ("repeated " if field.is_repeated else "") + type_name(field)
    oneof = f" (oneof {field.containing_oneof.name})" if field.containing_oneof else ""
    return f"{field.number} {field.name}: {kind}{oneof}"


def type_name(field: FieldDescriptor) -> str:
    composite = field.message_type or field.enum_type
    if composite is not None:
        return str(composite.full_name)
    scalar = FieldDescriptorProto.Type.ValueType(field.type)
    return FieldDescriptorProto.Type.Name(scalar).removeprefix("TYPE_").lower()


CONTRACT = parse((HERE / "wire_table.txt").read_text("utf-8"))
ADDITIONS = parse((HERE / "wire_additions.txt").read_text("utf-8"))
FILES = sorted({place for place, _ in CONTRACT})


@pytest.fixture(scope="module")
def live() -> Facts:
    facts: Facts = {}
    for place in FILES:
        name = place.removesuffix(".proto").replace("/", ".")
        facts |= describe(importlib.import_module(f"pilothouse.wire.{name}_pb2").DESCRIPTOR)
    return facts


def label(key: tuple[str, str]) -> str:
    return key[1].replace(" ", ":")


@pytest.mark.parametrize("key", CONTRACT, ids=label)
def test_contract_is_kept(key: tuple[str, str], live: Facts) -> None:
    assert key in live
    assert CONTRACT[key] - live[key] == set()


@pytest.mark.parametrize("key", CONTRACT, ids=label)
def test_what_is_ours_is_numbered_from_1000(key: tuple[str, str], live: Facts) -> None:
    extra = live[key] - CONTRACT[key]
    if key[1].startswith("service "):
        assert extra == set()
    assert {line for line in extra if int(re.split(r"[ =]", line)[0]) < OURS_FROM} == set()


@pytest.mark.parametrize("key", ADDITIONS, ids=label)
def test_published_additions_stay(key: tuple[str, str], live: Facts) -> None:
    assert ADDITIONS[key] - live[key] == set()


def test_the_table_is_whole() -> None:
    kinds = [heading.split()[0] for _, heading in CONTRACT]
    counts = {kind: kinds.count(kind) for kind in ("package", "service", "message", "enum")}
    assert counts == {"package": 7, "service": 5, "message": 130, "enum": 13}
    methods, fields, enum_values = 40, 639, 73
    assert sum(len(lines) for lines in CONTRACT.values()) == methods + fields + enum_values


def test_a_line_that_is_no_fact_is_refused() -> None:
    with pytest.raises(ValueError, match="not a fact"):
        parse("## package a.v1 (a/v1/a.proto)\nmessage A\n  one name: string\n")
