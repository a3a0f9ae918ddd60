"""The ``pilot`` command: help, usage errors, exit codes, stdout and stderr."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pilothouse import __version__
from pilothouse.cli.main import main
from support.fake_api import (
    END,
    OTHER,
    RUN,
    Fake,
    chunk,
    job_view,
    logged_in,
    serving,
    step_view,
    summary,
    watched,
)
from support.waiting import PATIENCE

Done = subprocess.CompletedProcess[str]
Pilot = Callable[..., Done]


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PILOT_") or name == "NO_COLOR"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PILOT_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def process() -> Pilot:
    """``pilot`` in a process of its own."""

    def run(*arguments: str, stdin: str = "") -> Done:
        command = (sys.executable, "-m", "pilothouse", *arguments)
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    return run


@pytest.fixture
def pilot(monkeypatch: pytest.MonkeyPatch) -> Pilot:
    """The same command line in this process: starting Python for each would take most of the time."""

    def run(*arguments: str, stdin: str = "") -> Done:
        streams = [
            io.TextIOWrapper(io.BytesIO(text.encode()), write_through=True) for text in (stdin, "", "")
        ]
        with monkeypatch.context() as patch:
            for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
                patch.setattr(sys, name, stream)
            patch.setattr(sys, "argv", ["pilot", *arguments])
            try:
                code = main()
            except SystemExit as ended:
                code = int(ended.code or 0)
        _, out, err = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
        return Done(arguments, code, out, err)

    return run


@pytest.fixture
def fake() -> Iterator[type[Fake]]:
    with serving() as handler:
        yield handler


def test_help_names_every_command(process: Pilot) -> None:
    shown = process("--help")
    assert shown.returncode == 0
    for noun in (
        "up",
        "server",
        "agent",
        "login",
        "logout",
        "token",
        "secret",
        "pipeline",
        "run",
        "config",
        "version",
    ):
        assert f" {noun} " in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "logs"),
        ("run", "rerun"),
        ("agent",),
        ("agent", "list"),
        ("pipeline", "run"),
        ("token", "create"),
        ("secret", "set"),
        ("up",),
    ],
)
def test_help_of_commands(pilot: Pilot, arguments: tuple[str, ...]) -> None:
    shown = pilot(*arguments, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert " ".join(("pilot", *arguments)) in shown.stdout


def test_a_short_command_loads_what_it_needs(fake: type[Fake], tmp_path: Path) -> None:
    """No other command's modules, no library for checking values that need no check."""
    page = {"page": 1, "limit": 100, "total": 1, "total_pages": 1}
    fake.answers["GET /workflow-runs"] = (200, {"runs": [summary(RUN, "failed")], "pagination": page})
    program = (
        "import sys; from pilothouse.cli.main import main\n"
        "sys.argv[1:] = ['-o', 'json', 'run', 'list', '--all', '--status', 'failed']\n"
        "main(); print(*sys.modules, file=sys.stderr)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    environment |= {"PILOT_SERVER": fake.url, "PILOT_TOKEN": "t", "PILOT_CONFIG_HOME": str(tmp_path)}  # type: ignore[attr-defined]
    done = subprocess.run(
        (sys.executable, "-c", program), env=environment, capture_output=True, text=True, check=True
    )
    assert RUN in done.stdout
    loaded = set(done.stderr.split())
    assert {"pilothouse.cli.run", "httpx"} <= loaded
    others = {"agent", "user", "project", "pipeline", "up", "server", "lint", "login"}
    assert loaded.isdisjoint({f"pilothouse.cli.{name}" for name in others})
    assert loaded & {"pydantic", "rich.console", "yaml", "tomllib"} == set()


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from pilothouse.cli.app import build; build(); "
        "print([m for m in ('httpx', 'fastapi', 'grpc', 'sqlalchemy', 'pydantic', 'uvicorn') if m in sys.modules])"
    )
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("run", "view", "a", "b"),
        ("run", "list", "--limit", "0"),
        ("run", "list", "-o", "xml"),
        ("pipeline", "run", "--var", "novalue"),
        ("pipeline", "lint", "missing.yaml"),
        ("agent", "--server", "http://x", "--label", "novalue"),
        ("agent", "--platform", "steam"),
        ("token", "create", "x", "--expires-in", "soon", "--server", "http://x", "--token", "t"),
        ("token", "create", "x", "--max-uses", "5", "--server", "http://x", "--token", "t"),
        ("token", "create", "x", "--agent", "--role", "viewer", "--server", "http://x", "--token", "t"),
        ("run", "logs", "last", "-o", "yaml", "--server", "http://x", "--token", "t"),
        ("run", "list", "--server", "ftp://x", "--token", "t"),
        ("server", "--port", "70000"),
        ("server", "--config", "missing.toml"),
        ("config", "use", "nowhere"),
    ],
)
def test_usage_errors_exit_2_and_say_so_on_stderr(pilot: Pilot, arguments: tuple[str, ...]) -> None:
    done = pilot(*arguments)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


def test_not_logged_in_exits_4(pilot: Pilot) -> None:
    done = pilot("run", "list")
    assert done.returncode == 4
    assert "pilot login" in done.stderr


def test_unreachable_exits_6(process: Pilot) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = process("run", "list", "--all", "--server", f"http://127.0.0.1:{port}", "--token", "t")
    assert done.returncode == 6
    assert done.stderr.splitlines() == [
        f"error: cannot reach http://127.0.0.1:{port}: connection refused",
        "hint: is the server running? start one with `pilot up`",
    ]


@pytest.mark.parametrize(("status", "code"), [(401, 4), (403, 4), (404, 1), (500, 1)])
def test_refusals(pilot: Pilot, fake: type[Fake], status: int, code: int) -> None:
    fake.answers["GET /workflow-runs"] = (status, {"message": "no \x1b[2Jway", "code": "SOME_CODE"})
    done = pilot("run", "list", "--all", *logged_in(fake))
    assert done.returncode == code
    assert "no way (SOME_CODE)" in done.stderr
    assert done.stdout == ""


def test_login_saves_and_logout_forgets(pilot: Pilot, fake: type[Fake], tmp_path: Path) -> None:
    user = {"username": "ann", "role": "user"}
    fake.answers["POST /auth/login"] = (
        200,
        {"token": "granted", "user": user, "expires_at": "2026-01-01T00:00:00Z"},
    )
    fake.answers["POST /auth/logout"] = (200, {"message": "bye"})
    fake.answers["GET /agents"] = (200, {"agents": []})
    url = fake.url  # type: ignore[attr-defined]
    done = pilot("login", url, "--username", "ann", "--password-stdin", stdin="pa ss\n")
    assert done.returncode == 0, done.stderr
    assert fake.seen[0][:2] == ("POST /auth/login", {"username": "ann", "password": "pa ss"})
    assert pilot("agent", "list", "-o", "json").stdout == "[]\n"
    assert fake.seen[-1][2] == "Bearer granted"
    assert "granted" in (tmp_path / "config" / "contexts.toml").read_text()
    assert pilot("logout").returncode == 0
    assert "granted" not in (tmp_path / "config" / "contexts.toml").read_text()
    assert pilot("agent", "list").returncode == 4


def test_a_wrong_password_exits_4(pilot: Pilot, fake: type[Fake]) -> None:
    fake.answers["POST /auth/login"] = (401, {"message": "no", "code": "AUTH_INVALID_CREDENTIALS"})
    url = fake.url  # type: ignore[attr-defined]
    done = pilot("login", url, "-u", "ann", stdin="wrong")
    assert done.returncode == 4
    assert "invalid username or password" in done.stderr


_PROJECTS = {
    "list": [{"projectId": "p1", "name": "shop", "isDefault": True}],
    "total": 1,
    "page": 1,
    "pageSize": 100,
}
ONE_PROJECT = (200, {"code": 200, "detail": _PROJECTS})


def test_a_secret_is_read_from_stdin(pilot: Pilot, fake: type[Fake]) -> None:
    fake.answers["GET /projects"] = ONE_PROJECT
    fake.answers["PUT /secrets/KEY"] = (201, {"code": 201, "detail": {"name": "KEY"}})
    done = pilot("secret", "set", "KEY", *logged_in(fake), stdin="a\nb\n")
    assert done.returncode == 0, done.stderr
    assert fake.seen[-1][:2] == ("PUT /secrets/KEY", {"value": "a\nb", "projectId": "p1"})
    assert pilot("secret", "set", "KEY", "value", *logged_in(fake)).returncode == 2, "never an argument"


def test_secrets_are_listed_page_by_page(pilot: Pilot, fake: type[Fake]) -> None:
    secret = {"name": "KEY", "createdBy": "ann", "createdAt": 1768055025, "updatedAt": 1768055025}
    listed = {"list": [secret], "total": 1, "page": 1, "pageSize": 100}
    fake.answers["GET /projects"] = ONE_PROJECT
    fake.answers["GET /secrets"] = (200, {"code": 200, "detail": listed})
    done = pilot("secret", "list", *logged_in(fake))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split("  ")[-1].strip() == "2026-01-10 14:23:45Z"
    native = {"name": "KEY", "created_by": "ann"}
    native |= {"created_at": "2026-01-10T14:23:45Z", "updated_at": "2026-01-10T14:23:45Z"}
    assert json.loads(pilot("secret", "list", "-o", "json", *logged_in(fake)).stdout) == [native]


@pytest.mark.parametrize(
    ("status", "code"), [("succeeded", 0), ("failed", 5), ("timed_out", 5), ("cancelled", 3)]
)
def test_watching_exits_with_the_outcome(process: Pilot, fake: type[Fake], status: str, code: int) -> None:
    watched(fake, status)
    done = process("run", "watch", RUN[-8:], *logged_in(fake))
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines() == [
        f"run {RUN}: started",
        "step build/compile: started on agent local",
        "build/compile | hello",
        f"run {RUN}: {status.replace('_', ' ')} in 1.5s",
    ]
    commands = [line.split("  #")[0].strip() for line in done.stderr.splitlines() if "pilot run" in line]
    failed = [
        f"pilot run {what}" for what in ("logs 5f60718a --failed", "rerun 5f60718a --failed", "view 5f60718a")
    ]
    assert commands == (failed if code == 5 else [])


def test_watching_for_a_program(pilot: Pilot, fake: type[Fake]) -> None:
    watched(fake, "failed")
    done = pilot("-o", "json", "run", "watch", "last", *logged_in(fake))
    assert done.returncode == 5
    assert json.loads(done.stdout)["id"] == RUN
    assert "build/compile | hello" in done.stderr


@pytest.mark.parametrize(("reference", "code"), [("01980f", 2), ("718a", 2), ("ffffffff", 1), (RUN[-6:], 0)])
def test_shortened_run_ids(pilot: Pilot, fake: type[Fake], reference: str, code: int) -> None:
    watched(fake, "succeeded")
    done = pilot("run", "view", reference, *logged_in(fake))
    assert done.returncode == code, done.stderr


def test_lists_as_table_json_and_yaml(pilot: Pilot, fake: type[Fake]) -> None:
    watched(fake, "succeeded")
    table = pilot("run", "list", *logged_in(fake))
    head, first, _second = table.stdout.splitlines()
    assert head.split() == ["ID", "NAME", "STATUS", "CREATED", "TOOK", "BY"]
    assert first.startswith(f"{RUN}  hello  succeeded")
    assert [run["id"] for run in json.loads(pilot("run", "list", "-o", "json", *logged_in(fake)).stdout)] == [
        RUN,
        OTHER,
    ]
    assert f"- id: {RUN}\n" in pilot("run", "list", "-o", "yaml", *logged_in(fake)).stdout


def test_spec_problems_name_file_line_and_column(pilot: Pilot, fake: type[Fake], tmp_path: Path) -> None:
    problem = {
        "message": 'unknown key "stepz"',
        "line": 3,
        "column": 5,
        "expected": "steps",
        "path": "jobs[0]",
    }
    refusal = {"code": 400, "errMsg": "bad", "errorCode": "SPEC_INVALID", "details": {"problems": [problem]}}
    fake.answers["GET /projects"] = ONE_PROJECT
    fake.answers["POST /pipelines/spec/validate"] = (400, refusal)
    (tmp_path / "spec.yaml").write_text("jobs: []\n")
    done = pilot("pipeline", "run", "--file", "spec.yaml", *logged_in(fake))
    assert done.returncode == 2
    assert 'spec.yaml:3:5: error: unknown key "stepz" (expected steps)\n' in done.stderr
    assert "error: 1 problem in spec.yaml\n" in done.stderr


def test_settings_are_shown_with_secrets_masked(
    pilot: Pilot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pilot.toml").write_text('port = 1234\nhost = "0.0.0.0"\ntypo = 1\n')
    monkeypatch.setenv("PILOT_ADMIN_PASSWORD", "hush hush")
    monkeypatch.setenv("PILOT_PORT", "4321")
    done = pilot("config", "show", "-o", "json", "--config", "pilot.toml")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["port"] == {"value": 4321, "from": "environment"}
    assert shown["host"] == {"value": "0.0.0.0", "from": "file"}
    assert shown["grpc_port"]["from"] == "default"
    assert shown["admin_password"] == {"value": "**********", "from": "environment"}
    assert "hush" not in done.stdout + done.stderr
    assert "unknown settings: typo" in done.stderr


def test_version(process: Pilot, pilot: Pilot) -> None:
    done = process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")
    assert pilot("version").stdout == f"pilot {__version__}\n"
    assert json.loads(pilot("version", "-o", "json").stdout)["version"] == __version__


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (("--step", "nope"), "step 'nope'"),
        (("--job", "nope"), "job 'nope'"),
        (("--job", "test", "--step", "compile"), "step 'compile' of job 'test'"),
        (("--follow", "--step", "nope"), "step 'nope'"),
        (("--job", "build", "--step", "compile"), ""),
        (("--step", "unit"), ""),
    ],
)
def test_the_log_of_a_step_that_is_not_there(
    pilot: Pilot, fake: type[Fake], options: tuple[str, ...], refused: str
) -> None:
    jobs = [job_view("build", step_view("compile")), job_view("test", step_view("unit"))]
    fake.answers[f"GET /workflow-runs/{RUN}"] = (200, {**summary(RUN, "succeeded"), "jobs": jobs})
    fake.answers[f"GET /workflow-runs/{RUN}/logs"] = (
        200,
        [chunk(*("build", "compile") if "compile" in options else ("test", "unit"), "one"), END],
    )
    done = pilot("run", "logs", RUN, *options, *logged_in(fake))
    if refused:
        assert (done.returncode, done.stdout) == (2, "")
        assert f"has no {refused} (there are: build/compile, test/unit)" in done.stderr
    else:
        assert (done.returncode, done.stdout) == (0, "one\n"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "expected"),
    [
        (("run", "list", "--limit", "abc"), {}, "Invalid value for '--limit': this is not an integer"),
        (("run", "list", "--limit", "0"), {}, "Invalid value for '--limit': it must be at least 1"),
        (("up", "--port", "x"), {}, "Invalid value for '--port': this is not an integer"),
        (("up", "--port", "99999"), {}, "settings: port: it must be at most 65535"),
        (
            ("up", "--log-level", "loud"),
            {},
            "settings: log_level: it must be one of debug|info|warning|error",
        ),
        (
            ("up",),
            {"PILOT_MAX_BLOB": "lots"},
            "settings: max_blob: expected a size such as 512MiB, or a number of bytes",
        ),
        (("up",), {"PILOT_MAX_BLOB": "0"}, "settings: max_blob: it must be more than 0"),
        (
            ("agent", "--max-checkout", "lots"),
            {},
            "--max-checkout 'lots': expected a size such as 512MiB, or a number of bytes",
        ),
        (
            ("agent",),
            {"PILOT_OBJECT_CACHE": "-1"},
            "--object-cache '-1': expected a size such as 512MiB, or a number of bytes",
        ),
        (
            ("agent",),
            {"PILOT_LINGER": "x"},
            "Invalid value for '--linger' (from PILOT_LINGER): this is not a number",
        ),
        (
            ("run", "watch"),
            {"PILOT_PROGRESS": "loud"},
            "Invalid value for '--progress' (from PILOT_PROGRESS): 'loud'",
        ),
    ],
)
def test_wrong_values_are_told_in_our_words(
    pilot: Pilot,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    env: dict[str, str],
    expected: str,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    done = pilot(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {expected}"), done.stderr


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, each in getattr(command, "commands", {}).items():
        yield from _leaves(each, (*path, name))
    if path and not getattr(command, "commands", {}):
        yield path


def test_help_names_arguments_alike() -> None:
    import typer.main
    from typer.testing import CliRunner

    from pilothouse.cli.app import build

    for path in _leaves(typer.main.get_command(build())):
        shown = CliRunner().invoke(build(), [*path, "--help"]).stdout
        usage = shown.split("\n\n")[0]
        assert re.fullmatch(r"Usage: \w+ [a-z -]+\[OPTIONS\](\s+(\[[A-Z]+\](\.\.\.)?|[A-Z]+))*", usage), usage
        arguments = shown.partition("Arguments:\n")[2].split("\n\n")[0]
        for name in re.findall(r"^  (\S+)", arguments, re.MULTILINE):
            assert name.strip("[].").isupper(), shown


def test_sizes_are_written_alike_for_client_agent_and_server(
    pilot: Pilot, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PILOT_MAX_CHECKOUT", "PILOT_OBJECT_CACHE", "PILOT_MAX_BLOB"):
        monkeypatch.setenv(name, "512MiB")
    shown = json.loads(pilot("config", "show", "-o", "json").stdout)
    assert shown["max_blob"]["value"] == 512 << 20
    took: list[Any] = []
    monkeypatch.setattr("pilothouse.cli.agent._work", lambda settings: took.append(settings) or 0)
    pilot("agent", "--name", "a", "--server", "http://127.0.0.1:1")
    assert [(each.max_checkout, each.object_cache) for each in took] == [(512 << 20, 512 << 20)]
