"""Completion: values from a cache, no network access, no slow imports."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.desk import PILOT
from support.fake_api import RUN, Fake, serving, summary, watched

ROOT = Path(__file__).resolve().parents[2]
Complete = Callable[..., list[str]]


@pytest.fixture
def fake() -> Iterator[type[Fake]]:
    with serving() as handler:
        watched(handler, "succeeded")
        page = {"page": 1, "pageSize": 100, "total": 3}
        names = ["shop", "sh$(touch hacked)op", "with space"]
        pipelines = [{"pipelineId": "p", "name": name} for name in names]
        handler.answers["GET /pipelines"] = (200, {"detail": {"list": pipelines, **page}})
        handler.answers["GET /projects"] = (200, {"detail": {"list": [{"name": "default"}], **page}})
        handler.answers["GET /agents"] = (200, {"agents": [{"agent_id": "build-1", "status": "on`line`"}]})
        yield handler


@pytest.fixture
def environment(fake: type[Fake], tmp_path: Path) -> dict[str, str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PILOT_", "_PILOT", "COMP_"))
    }
    clean |= {"PILOT_CONFIG_HOME": str(tmp_path), "PILOT_TOKEN": "tok"}
    clean["PILOT_SERVER"] = fake.url  # type: ignore[attr-defined]
    return clean


@pytest.fixture
def complete(environment: dict[str, str]) -> Complete:
    def ask(line: str, shell: str = "bash", **more: str) -> list[str]:
        words = ["pilot", *line.split(" ")]
        asked = {"_PILOT_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": " ".join(words)}
        asked |= {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        done = subprocess.run(
            PILOT, env=environment | asked | more, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    return ask


def eventually(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def known(tmp_path: Path) -> bool:
    return any((tmp_path / "cache").glob("completion-*.json"))


def test_commands_options_and_values(complete: Complete) -> None:
    assert {"up", "run", "pipeline", "agent"} <= set(complete(""))
    assert complete("ru") == ["run"]
    assert {"list", "view", "watch", "logs"} <= set(complete("run "))
    assert {"--tail", "--grep", "--failed", "--output"} <= set(complete("run logs --"))
    assert complete("run list --status can") == ["cancelled"]
    assert complete("-o ya") == ["yaml"]
    assert complete("nonsense ") != ["run"]


def test_live_values(complete: Complete, fake: type[Fake], tmp_path: Path) -> None:
    assert complete("run view ") == ["last"], "nothing is known yet, and nobody waits"
    eventually(lambda: known(tmp_path), "the cache is filled")
    assert complete("run view ") == ["last", RUN[-8:], "5f60aaaa"]
    assert complete("run view 5f60a") == ["5f60aaaa"]
    assert complete("run view 5f60aaaa ") == [], "one run is enough"
    assert complete("pipeline view ") == ["shop"], "what a shell could run is not offered"
    assert complete("run list --pipeline ") == ["shop"]
    assert complete("pipeline run --project ") == ["default"]
    assert complete("agent view ") == ["build-1"]
    assert complete("pipeline run --name ") == [], "a new name"
    zsh = complete("agent view ", "zsh")
    assert zsh == ['_arguments \'*: :(("build-1":"online"))\'']
    assert complete("agent view ", "fish", _TYPER_COMPLETE_FISH_ACTION="get-args") == ["build-1\tonline"]


def test_contexts(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "contexts.toml").write_text(
        'current = "a"\n[contexts.a]\nserver = "http://a"\n[contexts.b]\nserver = "http://b"\n'
    )
    assert complete("config use ") == ["a", "b"]
    assert complete("run list --context ") == ["a", "b"]


def test_an_old_answer_is_given_at_once_and_renewed(
    complete: Complete, fake: type[Fake], tmp_path: Path
) -> None:
    complete("run view ")
    eventually(lambda: known(tmp_path), "the cache is filled")
    (cache,) = (tmp_path / "cache").glob("completion-*.json")
    for path in (tmp_path / "cache").iterdir():
        os.utime(path, (1, 1))
    page = {"page": 1, "limit": 100, "total": 1, "total_pages": 1}
    fake.answers["GET /workflow-runs"] = (
        200,
        {"runs": [summary(RUN[:-8] + "ffffffff", "failed")], "pagination": page},
    )
    assert complete("run view ") == ["last", RUN[-8:], "5f60aaaa"]
    eventually(lambda: cache.stat().st_mtime > 1, "it is renewed")
    assert complete("run view ") == ["last", "ffffffff"]
    assert cache.stat().st_mode & 0o77 == 0
    assert "tok" not in cache.name + cache.read_text()


def test_a_server_that_does_not_answer_is_not_waited_for(
    complete: Complete, environment: dict[str, str], tmp_path: Path
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment["PILOT_SERVER"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert complete("run view ") == ["last"]
        silent.settimeout(60)
        asked, _ = silent.accept()  # another process, without our descriptors
        assert complete("run view ") == ["last"]
        asked.close()
    assert not known(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"runs": 1}', '{"runs": [1, ["a"], ["b", "c"]]}', "\x00"])
def test_a_damaged_cache(complete: Complete, environment: dict[str, str], tmp_path: Path, text: str) -> None:
    from hashlib import sha256

    key = sha256("\0".join((environment["PILOT_SERVER"], "", str(tmp_path))).encode()).hexdigest()[:16]
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"completion-{key}.json").write_text(text)
    assert complete("run view ") in (["last"], ["last", "b"])


@pytest.mark.parametrize("line", ["", "pip", "run view ", "run list --", "-o ", "run watch --progress "])
def test_it_loads_next_to_nothing(environment: dict[str, str], line: str) -> None:
    """What takes time is loading modules: one more is one that every press of a key waits for."""
    program = (
        "import sys; before = set(sys.modules)\n"
        "from pilothouse.cli.main import main\n"
        "main(); print(*(set(sys.modules) - before), file=sys.stderr)"
    )
    words = ["pilot", *line.split(" ")]
    asked = {"_PILOT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words)}
    asked["COMP_CWORD"] = str(len(words) - 1)
    done = subprocess.run(
        (sys.executable, "-c", program), env=environment | asked, capture_output=True, text=True, check=True
    )
    assert done.stdout, "it has answered"
    ours = {name for name in done.stderr.split() if name.startswith("pilothouse.")}
    expected = {"cli", "cli.main", "cli.streams", "cli.completion", "cli.completion_cache"}
    assert ours == {f"pilothouse.{name}" for name in expected}
    slow = {"typing", "dataclasses", "inspect", "pathlib", "asyncio", "subprocess", "socket", "ssl"}
    slow |= {"typer", "rich", "httpx", "pydantic", "yaml", "tomllib", "logging"}
    assert slow.isdisjoint(done.stderr.split())


def test_the_list_of_commands_is_current() -> None:
    checked = subprocess.run(
        (sys.executable, str(ROOT / "tools" / "generate_commands.py"), "--check"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
