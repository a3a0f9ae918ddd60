"""``pilot pipeline lint`` and ``schema``: without a server, several files, uniform output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

Done = subprocess.CompletedProcess[bytes]

GOOD = b"jobs: [{name: a, steps: [{name: s, run: make}]}]\n"
ODD = b"triggers: [{type: webhook}]\n" + GOOD
BAD = b"jobs:\n- name: a\n  needs: [b]\n  steps: [{name: s, run: make, tiemout: 5s}]\n"
BAD_LINES = [
    'bad.yaml:3:3: error: "needs" is a key of GitHub Actions and GitLab CI: write dependsOn: [b]',
    'bad.yaml:4:32: error: unknown key "tiemout"; did you mean "timeout"? (expected one of name, run, uses, action, '
    "args, env, continueOnError, timeout, when, agentSelector, runOnAgent, onLost, retry, background)",
]


def pilot(directory: Path, *arguments: str, stdin: bytes | None = b"", **environment: str) -> Done:
    """The command in a process of its own, with nothing that would lead it to a server."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
    clean |= {
        "PILOT_CONFIG_HOME": str(directory / "config"),
        "PILOT_SERVER": "http://127.0.0.1:9",
        **environment,
    }
    command = [sys.executable, "-m", "pilothouse", "pipeline", *arguments]
    if stdin is None:
        command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    return subprocess.run(
        command, cwd=directory, env=clean, input=stdin, capture_output=True, timeout=60, check=False
    )


@pytest.fixture
def here(tmp_path: Path) -> Path:
    for name, data in (("good.yaml", GOOD), ("odd.yaml", ODD), ("bad.yaml", BAD)):
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_a_good_spec(here: Path) -> None:
    done = pilot(here, "lint", "good.yaml")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"good.yaml: valid (1 job)\n", b"")


def test_warnings_have_places_and_change_no_exit_code(here: Path) -> None:
    done = pilot(here, "lint", "odd.yaml")
    assert (done.returncode, done.stdout) == (0, b"odd.yaml: valid (1 job)\n")
    assert done.stderr.decode() == (
        "odd.yaml:1:12: warning: triggers of type webhook have no effect in this release\n"
    )


def test_problems_have_places(here: Path) -> None:
    done = pilot(here, "lint", "bad.yaml")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().splitlines() == [*BAD_LINES, "error: 2 problems in bad.yaml"]


def test_several_files_are_all_checked(here: Path) -> None:
    done = pilot(here, "lint", "bad.yaml", "missing.yaml", "good.yaml", str(here / "odd.yaml"))
    assert (done.returncode, done.stdout.decode()) == (
        2,
        "good.yaml: valid (1 job)\nodd.yaml: valid (1 job)\n",
    )
    lines = done.stderr.decode().splitlines()
    assert lines[:2] == BAD_LINES
    assert "missing.yaml: error: cannot read missing.yaml: No such file or directory" in lines
    assert lines[-1] == "error: 3 problems in 2 files"


def test_the_spec_is_found_from_below_up_to_the_work_tree(here: Path) -> None:
    inner = here / "tree" / "a" / "b"
    inner.mkdir(parents=True)
    (here / ".pilot.yaml").write_bytes(BAD)
    (here / "tree" / ".git").write_text("gitdir: elsewhere\n")  # as in a linked work tree
    assert pilot(inner, "lint").returncode == 2
    assert b"there is no .pilot.yaml here" in pilot(inner, "lint").stderr
    (here / "tree" / ".pilot.yaml").write_bytes(GOOD)
    assert pilot(inner, "lint").returncode == 0


def test_stdin(here: Path) -> None:
    done = pilot(here, "lint", "-", stdin=BAD)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("<stdin>:3:3: error: ")
    assert pilot(here, "lint", "-", "good.yaml", stdin=b"\xef\xbb\xbf" + GOOD).returncode == 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "<stdin>:1:1: error: the spec is empty"),
        (b"jobs: \xff\n", "<stdin>: error: <stdin> is not valid UTF-8: invalid bytes in line 1"),
        (b"\x00\x01", "<stdin>:1:1: error: a control character"),
        (b"a" * (5 << 20), "<stdin> is over 4 MiB"),
        (b"a: b\n" * 250_000, "error: the spec has 1250000 characters, the bound is 1048576"),
        (None, "<stdin>:1:1: error: the spec is empty"),
    ],
)
def test_what_is_no_spec_is_said_to_be_none(data: bytes | None, said: str, here: Path) -> None:
    done = pilot(here, "lint", "-", stdin=data)
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize("name", ["/dev/zero", "directory", "/proc/self/mem"])
def test_what_is_no_file_is_said_to_be_none(name: str, here: Path) -> None:
    (here / "directory").mkdir()
    done = pilot(here, "lint", name)
    assert done.returncode == 2
    assert f"{name}: error: " in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_json(here: Path) -> None:
    done = pilot(here, "lint", "-o", "json", "bad.yaml", "odd.yaml", "missing.yaml")
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert document["valid"] is False
    bad, odd, missing = document["files"]
    assert (bad["file"], bad["valid"], bad["jobs"], bad["warnings"]) == ("bad.yaml", False, 0, [])
    assert bad["problems"][0] == {
        "severity": "error",
        "message": '"needs" is a key of GitHub Actions and GitLab CI: write dependsOn: [b]',
        "line": 3,
        "column": 3,
        "expected": "",
        "path": "jobs[0].needs",
    }
    assert (odd["valid"], odd["jobs"], odd["warnings"][0]["severity"]) == (True, 1, "warning")
    assert (missing["valid"], missing["problems"][0]["line"]) == (False, 0)
    good = json.loads(pilot(here, "lint", "-o", "json", "good.yaml").stdout)
    assert good["valid"] is True


def test_control_characters_of_a_spec_or_a_name_never_reach_the_terminal(here: Path) -> None:
    text = 'jobs: []\n"\x1b[31mred\x9b2J\u202e": 1\n'.encode()
    (here / "a\x1b[31m.yaml").write_bytes(b'jobs: []\n"\\e[31m\\x9b2J\\u202e": 1\n')
    for done in (pilot(here, "lint", "-", stdin=text), pilot(here, "lint", "a\x1b[31m.yaml")):
        assert done.returncode == 2
        assert not any(c in done.stderr.decode() for c in "\x1b\x9b\u202e")


def test_the_schema_is_printed(here: Path) -> None:
    done = pilot(here, "schema")
    assert (done.returncode, done.stderr) == (0, b"")
    schema = json.loads(done.stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {"jobs", "checkout", "variables"} <= schema["properties"].keys()


def test_specs_are_checked_without_the_weight_of_a_server() -> None:
    program = (
        "import sys, pilothouse.pipelines.spec; "
        "print([m for m in ('sqlalchemy', 'grpc', 'fastapi', 'pydantic', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
