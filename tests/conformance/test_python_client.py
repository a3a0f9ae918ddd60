"""A Python client that openapi-python-client generates from the document."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.conformance.toolchains import generator, run
from support.server import PASSWORD, Server

PACKAGE = "pilothouse_generated"


@pytest.fixture(scope="module")
def generated(
    one_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[subprocess.CompletedProcess[str]]:
    """What the generator said. Its package can be imported."""
    directory = tmp_path_factory.mktemp("python")
    (directory / "openapi.json").write_bytes(one_server.call("GET", "/openapi.json").content)
    tools = generator()
    command = (tools / "openapi-python-client", "generate", "--path", "openapi.json")
    sys.path.insert(0, str(directory))
    yield run(*command, "--meta", "none", "--output-path", PACKAGE, cwd=directory, path=tools)
    sys.path.remove(str(directory))
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def load(generated: Any) -> Callable[[str], Any]:
    return lambda name: importlib.import_module(f"{PACKAGE}.{name}")


def test_the_generator_understands_the_whole_document(
    generated: subprocess.CompletedProcess[str],
) -> None:
    assert "arning" not in generated.stdout + generated.stderr, generated.stdout + generated.stderr


def test_the_client_works(load: Callable[[str], Any], shared_server: Server) -> None:
    client, models = load("client"), load("models")
    anybody = client.Client(base_url=shared_server.url)
    body = models.Login(username="admin", password=PASSWORD)
    session = load("api.auth.login").sync(client=anybody, body=body)
    assert isinstance(session, models.LoginResult)

    admin = client.AuthenticatedClient(base_url=shared_server.url, token=session.token)
    runs = load("api.runs.list_runs").sync(client=admin, limit=5)
    assert isinstance(runs, models.RunList)
    assert runs.pagination.limit == 5

    body = models.CreateToken(name="generated", role=models.Role.VIEWER)
    token = load("api.tokens.create_token").sync(client=admin, body=body)
    assert isinstance(token, models.CreatedToken)
    assert token.role == "viewer"

    viewer = client.AuthenticatedClient(base_url=shared_server.url, token=token.token)
    refused = load("api.users.list_users").sync(client=viewer)
    assert isinstance(refused, models.Error)
    assert refused.code == "AUTH_INSUFFICIENT_PERMISSIONS"
    gone = load("api.runs.get_run").sync_detailed("01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a", client=viewer)
    assert gone.status_code == 404
    assert gone.parsed.code == "RUN_NOT_FOUND"
