"""The documentation matches the code: every list is compared in both directions."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import tomllib
from collections.abc import AsyncIterator, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import typer.main
from fastapi.routing import iter_route_contexts
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from typer.core import TyperGroup
from typer.exceptions import TyperException

from pilothouse.access.errors import CODES
from pilothouse.access.model import _TABLE, ACTIONS, AGENT_ACTIONS
from pilothouse.agent import errors as agent_errors
from pilothouse.cli.app import build as build_cli
from pilothouse.cli.errors import ExitCode
from pilothouse.edge.web import PUBLIC, required_action
from pilothouse.engine.sockets.closing import CLOSE_CODES
from pilothouse.engine.streams.stella import _RUN_MESSAGES
from pilothouse.expressions.functions import FUNCTIONS
from pilothouse.expressions.lint import CONDITION_FUNCTIONS, ROOTS
from pilothouse.expressions.parser import MACROS
from pilothouse.identity import api_tokens, logins, projects, tenants, users
from pilothouse.identity.service import Identity
from pilothouse.pipelines.spec import BUILTIN_ACTIONS, ParsedSpec, parse_spec
from pilothouse.server.app import build_app
from pilothouse.server.graph import Graph, build
from pilothouse.server.operations import Measures
from pilothouse.server.rpc import start_rpc
from pilothouse.server.settings import Settings
from pilothouse.wire import entries
from pilothouse.wire.pipeline.v1 import pipeline_spec_pb2
from support.pages import (
    DOCS,
    PAGE_IDS,
    PAGES,
    ROOT,
    anchors,
    blocks,
    first_quoted,
    listed_once,
    prose,
    quoted,
    rows,
    section,
)
from support.waiting import PATIENCE

SPECS = [ROOT / ".pilot.yaml", *sorted(ROOT.glob("examples/*/.pilot.yaml"))]


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    """All services of a server, not serving."""
    made = build(Settings(data_dir=tmp_path, port=0, grpc_port=0))
    yield made
    made.service(Identity).close()
    made.journal.feed.close()
    made.database.close()


# -- the HTTP API -------------------------------------------------------------------------------------------


def test_routes(graph: Graph) -> None:
    served = {}
    for route in iter_route_contexts(build_app(graph).routes):
        if route.path is not None:
            for method in (route.methods or {"WEBSOCKET"}) - {"HEAD"}:
                served[method, route.path] = required_action(route)
    table = rows(section("api.md", "## Routes"), 4)
    described = {(row[0], quoted(row[1])[0]): row[2] for row in table}
    assert len(described) == len(table)
    assert described.keys() == served.keys()
    for route, needs in described.items():
        action = served[route]
        if action is None:  # FastAPI's own pages are open; sockets check their caller themselves
            assert needs == ("`run.read`, viewer" if route[0] == "WEBSOCKET" else "open"), route
        else:
            who = (
                "agents"
                if action in AGENT_ACTIONS.keys() - _TABLE.keys()
                else _TABLE.get(action, ["open"])[0]
            )
            assert needs == ("open" if action == PUBLIC else f"`{action}`, {who}"), route


def test_error_codes() -> None:
    table = rows(section("api.md", "### Codes") + section("api.md", "### Reserved codes"), 3)
    listed_once([row[0] for row in table])
    assert {quoted(row[0])[0]: (int(row[1]), row[2]) for row in table} == dict(CODES)


# -- gRPC ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def channel(graph: Graph) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a real gRPC server."""
    graph.writer.start(graph.journal)
    server, port = await start_rpc(graph)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as made:
        yield made
    await server.stop(None)
    await graph.writer.stop()


async def reflected(channel: grpc.aio.Channel) -> list[str]:
    """``service/method`` of everything in the server's reflection."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def ask(**what: str) -> reflection_pb2.ServerReflectionResponse:
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**what)]))
        async for answer in call:
            return answer
        raise AssertionError("no answer")

    services = [service.name for service in (await ask(list_services="*")).list_services_response.service]
    found = []
    for service in services:
        files = (await ask(file_containing_symbol=service)).file_descriptor_response.file_descriptor_proto
        found += [f"{service}/{method}" for method in _methods(service, files)]
    return found


def _methods(service: str, files: Any) -> list[str]:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    for data in files:
        file = FileDescriptorProto.FromString(data)
        for each in file.service:
            if f"{file.package}.{each.name}" == service:
                return [method.name for method in each.method]
    raise AssertionError(f"no descriptor of {service}")


async def is_offered(channel: grpc.aio.Channel, method: str) -> bool:
    """Whether an unauthenticated call with an empty message gets a status other than ``UNIMPLEMENTED``."""

    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    call = channel.stream_stream(f"/{method}")(nothing(), timeout=PATIENCE)
    try:
        async for _ in call:
            call.cancel()
            return True
    except grpc.aio.AioRpcError as error:
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    return True


async def test_grpc_methods(channel: grpc.aio.Channel) -> None:
    offered, refused = set(), set()
    for method in await reflected(channel):
        (offered if await is_offered(channel, method) else refused).add(method)
    chapter = section("api.md", "## gRPC")
    assert listed_once(first_quoted(chapter, 3)) == offered
    assert {method for method in refused if not method.startswith("grpc.")} == set()
    assert set(first_quoted(section("agents.md", "## Writing an agent"), 2)) <= offered


# -- settings, metrics, logs --------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A setting's default as the page writes it."""
    assert not isinstance(value, SecretStr), "no secret has a default"
    match value:
        case None:
            return "none"
        case float():
            return f"`{value:g}`"
    return f"`{value}`"


def test_settings() -> None:
    table = rows(section("operations.md", "## Settings"), 4)
    listed_once([row[0] for row in table])
    described = {quoted(row[0])[0]: (row[1], row[2]) for row in table}
    fields = Settings.model_fields
    assert described == {
        name: (f"`PILOT_{name.upper()}`", shown(field.default)) for name, field in fields.items()
    }


def test_metrics(graph: Graph) -> None:
    with graph.database.read() as conn:
        shown = graph.service(Measures).read(conn)[0].decode()
    measured = {
        family.name: {label for sample in family.samples for label in sample.labels}
        for family in text_string_to_metric_families(shown)
    }
    table = rows(section("operations.md", "## Metrics"), 3)
    assert {quoted(row[0])[0]: set(quoted(row[1])) for row in table} == measured


def test_log_events() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    for row in rows(section("operations.md", "## Logs"), 3):
        levels = "error|exception" if row[1] == "error" else row[1]
        event = re.escape(quoted(row[0])[0])
        assert re.search(rf'\blog\.({levels})\(\s*"{event}"', source), row


# -- streams ------------------------------------------------------------------------------------------------


def identity_entry_types() -> set[str]:
    """Types that identity's use cases write: they stand where they are used, as ``"user.created"``."""
    source = "".join(map(inspect.getsource, (users, projects, tenants, api_tokens, logins)))
    return set(re.findall(r'"((?:user|project|tenant|token)\.[a-z_]+)"', source)) - ACTIONS.keys()


def test_entry_types() -> None:
    declared = {
        value
        for name, value in vars(entries).items()
        if name.isupper() and isinstance(value, str) and "." in value
    }
    table = rows(section("streams.md", "## Entry types"), 3)
    assert listed_once([quoted(row[0])[0] for row in table]) == declared | identity_entry_types()


def test_keys_of_entries() -> None:
    """The page documents each type's body as in the journal's vocabulary."""
    table = {quoted(row[0])[0]: row[2] for row in rows(section("streams.md", "## Entry types"), 3)}
    assert entries.__doc__ is not None
    body = entries.__doc__.split("=\n")[2].rpartition("\n===")[0]
    for type, keys in re.findall(
        r"^([a-z]+\.[a-z_]+) +(.*?)(?=^[a-z]+\.|\Z)", body, re.DOTALL | re.MULTILINE
    ):
        missing = set(re.findall(r"``(\w+)``", keys)) - set(quoted(table[type]))
        assert not missing, f"{type}: {missing}"


def test_run_messages() -> None:
    described = first_quoted(section("streams.md", "## The run stream"), 2)
    built = {build.__name__.lstrip("_") for build in _RUN_MESSAGES.values()} - {"log_missed"}
    built.add("step_log")  # its messages are built for a whole chunk at once
    assert listed_once(described) == built | {"heartbeat", "error"}


def test_close_codes() -> None:
    described = listed_once([row[0] for row in rows(section("streams.md", "## Close codes"), 3)])
    assert described == {str(code) for code in CLOSE_CODES.values()} | {"1000", "1001", "1009", "1011"}


# -- the command line ---------------------------------------------------------------------------------------


def commands(group: Any, path: str = "pilot") -> Iterator[tuple[str, Any]]:
    """Every leaf command with its words."""
    if not isinstance(group, TyperGroup) or group.invoke_without_command:
        yield path, group
    for name, inner in getattr(group, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


def options_of(command: Any, *, common: bool) -> set[str]:
    """All spellings of its options: those that every command has, or its own."""
    return {
        opt
        for param in command.params
        if param.param_type_name == "option"
        and (param.rich_help_panel == "Common options" or param.name == "help") == common
        for opt in (*param.opts, *param.secondary_opts)
    }


ALL_COMMANDS = dict(commands(typer.main.get_command(build_cli())))


def test_commands() -> None:
    headings = re.findall(r"^### (pilot .*)$", prose(DOCS / "cli.md"), re.MULTILINE)
    assert listed_once(headings) == ALL_COMMANDS.keys()


@pytest.mark.parametrize("path", ALL_COMMANDS)
def test_options(path: str) -> None:
    described = set(re.findall(r"`(--?[a-z][a-z-]*)", section("cli.md", f"### {path}")))
    assert described == options_of(ALL_COMMANDS[path], common=False)


def test_common_options() -> None:
    described = set(re.findall(r"`(?:pilot )?(--?[a-z][a-z-]*)`", section("cli.md", "## Common options")))
    root = typer.main.get_command(build_cli())
    assert described == options_of(root, common=True) | options_of(root, common=False) | {"--help", "-h"}


def test_environment_of_commands() -> None:
    described = set(re.findall(r"\b(PILOT_[A-Z_]+)\b", (DOCS / "cli.md").read_text()))
    params = [param for command in ALL_COMMANDS.values() for param in command.params]
    read = {name for param in params for name in ([*param.envvar] if param.envvar else [])}
    source = "".join(path.read_text() for path in (ROOT / "src/pilothouse/cli").rglob("*.py"))
    read |= set(re.findall(r'"(PILOT_(?:SERVER|TOKEN|CONTEXT|CONFIG_HOME|MAX_CHECKOUT|DEBUG))"', source))
    settings = {f"PILOT_{name.upper()}" for name in Settings.model_fields}
    assert read <= described <= read | settings


def test_exit_codes() -> None:
    table = rows(section("cli.md", "## Exit codes"), 3)
    described: dict[str, int] = {quoted(row[1])[0]: int(row[0]) for row in table}
    codes: type[IntEnum] = ExitCode
    assert described == {code.name: code.value for code in codes}


def test_exit_codes_of_agents() -> None:
    described = listed_once([row[0] for row in rows(section("agents.md", "## Exit codes"), 2)])
    raised = {str(kind.exit_code) for kind in vars(agent_errors).values() if hasattr(kind, "exit_code")}
    assert described == raised | {"0"}


# -- specs --------------------------------------------------------------------------------------------------


def messages(start: Descriptor) -> dict[str, Descriptor]:
    """This message and all that are reachable from it, but for the well-known ones."""
    found: dict[str, Descriptor] = {}
    queue = [start]
    while queue:
        message = queue.pop()
        if message.name in found or message.file.package != start.file.package:
            continue
        if message.GetOptions().map_entry:
            continue
        found[message.name] = message
        queue += [f.message_type for f in message.fields if f.type == FieldDescriptor.TYPE_MESSAGE]
    return found


SPEC_MESSAGES = messages(pipeline_spec_pb2.Spec.DESCRIPTOR)


@pytest.mark.parametrize("name", SPEC_MESSAGES)
def test_spec_fields(name: str) -> None:
    described = [quoted(row[0])[0] for row in rows(section("pipelines.md", f"### {name}"), 2)]
    written_only = {"run"} if name == "Step" else set()  # stored as uses, action and args
    assert listed_once(described) == {field.json_name for field in SPEC_MESSAGES[name].fields} | written_only


def test_actions() -> None:
    table = {quoted(row[0])[0]: row[1] for row in rows(section("pipelines.md", "## Actions"), 3)}
    assert table.keys() == BUILTIN_ACTIONS.keys()
    for action, schema in BUILTIN_ACTIONS.items():
        assert set(quoted(table[action])) == set(schema.arguments), action


def test_functions() -> None:
    described = [word.partition("(")[0] for word in first_quoted(section("pipelines.md", "## Functions"), 2)]
    assert listed_once(described) == {*FUNCTIONS, *CONDITION_FUNCTIONS, *MACROS, "has"}


def test_names_in_expressions() -> None:
    table = rows(section("pipelines.md", "## Expressions"), 2)
    assert listed_once([quoted(row[0])[0] for row in table]) == set(ROOTS)


@pytest.mark.parametrize("code", blocks("yaml"))
def test_spec_examples(code: str) -> None:
    found: ParsedSpec = parse_spec(code)
    assert not found.warnings


@pytest.mark.parametrize("path", SPECS, ids=[str(path.relative_to(ROOT)) for path in SPECS])
def test_specs_that_ship(path: Path) -> None:
    assert not parse_spec(path.read_text(), file=str(path)).warnings


# -- code and links in pages --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", blocks("json"))
def test_json_examples(code: str) -> None:
    json.loads(code)


@pytest.mark.parametrize("code", blocks("toml"))
def test_toml_examples(code: str) -> None:
    given = tomllib.loads(code)
    assert given.keys() <= Settings.model_fields.keys()
    Settings(**given)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples(code: str) -> None:
    compile(code, "example", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def command_lines(code: str) -> Iterator[list[str]]:
    """The words after ``pilot`` of each line of a shell example that calls it."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line.split(" | ")[0].split(" < ")[0].split(" > ")[0], comments=True)
        if words and words[0].rpartition("/")[2] == "pilot":
            yield words[1:]


def checked(words: list[str]) -> None:
    """Raise what typer raises for a command or option that is not there, or an argument too few or too many."""
    command: Any = typer.main.get_command(build_cli())
    name, rest, parent = "pilot", words, None
    while True:
        parent = command.make_context(name, list(rest), parent=parent)
        if not isinstance(command, TyperGroup) or (
            parent.invoked_subcommand is None and not parent._protected_args
        ):
            return
        name, command, rest = command.resolve_command(parent, [*parent._protected_args, *parent.args])


@pytest.mark.parametrize("code", blocks("sh"))
def test_commands_in_examples(code: str) -> None:
    for words in command_lines(code):
        checked(words)


def test_the_readme_sets_what_it_uses() -> None:
    code = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    known = {"PWD"}
    for line in code.splitlines():
        used = set(re.findall(r"\$([A-Z_]+)", line)) - {"PATH"}
        assert used <= known, line
        known |= set(re.findall(r"^(?:export )?([A-Z_]+)=", line))
    assert code.index("export PATH=") < code.index("\npilot "), "no plain pilot before it can be found"
    assert ".venv/bin/pilot" not in code, "another directory has no .venv"


def test_a_wrong_command_in_an_example_is_found() -> None:
    for words in (
        ["pipelin", "run"],
        ["pipeline", "run", "--fil", "x"],
        ["secret", "set"],
        ["run", "watch", "a", "b"],
    ):
        with pytest.raises(TyperException, match=r"No such|Missing|unexpected extra"):
            checked(words)


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(found), f"{page.name}: {target}"


# -- the tests ------------------------------------------------------------------------------------------------


def test_the_page_of_the_tests_names_all_they_are_made_of() -> None:
    page = (ROOT / "tests" / "README.md").read_text()
    support = ROOT / "tests" / "support"
    missing = [
        str(file.relative_to(support)) for file in support.rglob("*.py") if f"`{file.stem}`" not in page
    ]
    assert missing == []
