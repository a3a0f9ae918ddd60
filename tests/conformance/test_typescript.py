"""A TypeScript program against types that openapi-typescript generates from the document, compiled and run with Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from support import messages
from support.conformance.toolchains import PATIENCE, TYPESCRIPT, node_modules, run
from support.server import PASSWORD, Server


@pytest.fixture(scope="module")
def program(one_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the program, with its types."""
    directory = tmp_path_factory.mktemp("typescript")
    for name in ("package.json", "tsconfig.json", "program.ts"):
        shutil.copy(TYPESCRIPT / name, directory)
    (directory / "node_modules").symlink_to(node_modules())
    (directory / "openapi.json").write_bytes(one_server.call("GET", "/openapi.json").content)
    # Keys of requests that have a default may be left out.
    options = ("--default-non-nullable", "false", "--output", "api.d.ts")
    run("node_modules/.bin/openapi-typescript", "openapi.json", *options, cwd=directory)
    return directory


def test_the_program_works(program: Path, shared_server: Server) -> None:
    run("node_modules/.bin/tsc", "--strict", "--project", ".", cwd=program)
    done = subprocess.run(
        ["node", "out/program.js"],
        cwd=program,
        env={"PATH": os.environ["PATH"], "PILOT_SERVER": shared_server.url, "PASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "total": 1,
        "listed": [True],
        "jobs": [["build", ["compile"]]],
        "variables": {"tag": "1.5"},
        "error": [404, "RUN_NOT_FOUND"],
    }


def test_wrong_names_do_not_compile(program: Path) -> None:
    """Of a key of a request, of one of an answer, and of a path."""
    for right, wrong, complaint in (
        ("= { variables:", "= { variable:", "'variable' does not exist"),
        ("run.jobs.map", "run.job.map", "Property 'job' does not exist"),
        ('"/api/v1/projects"', '"/api/v1/project"', '"/api/v1/project"'),
    ):
        text = (TYPESCRIPT / "program.ts").read_text()
        assert text.count(right) == 1
        (program / "wrong.ts").write_text(text.replace(right, wrong))
        settings = json.loads((program / "tsconfig.json").read_text())
        settings["files"] = ["wrong.ts"]
        (program / "wrong.json").write_text(json.dumps(settings))
        done = run("node_modules/.bin/tsc", "--noEmit", "--project", "wrong.json", cwd=program, check=False)
        assert done.returncode != 0
        assert "wrong.ts(" in done.stdout
        assert complaint in done.stdout


def test_asyncapi_document_is_valid() -> None:
    """By the schema of AsyncAPI 3.0 itself."""
    schema = json.loads((node_modules() / "@asyncapi/specs/schemas/3.0.0.json").read_text())
    found = jsonschema.Draft7Validator(schema).iter_errors(messages.asyncapi())
    assert [f"{each.json_path}: {each.message[:300]}" for each in found] == []
