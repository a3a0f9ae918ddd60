"""Saved contexts: content, file mode, and which one is current."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.cli.context import Context, Contexts, ContextStore, config_home, render
from pilothouse.cli.errors import CliError, NotLoggedIn, UsageError
from pilothouse.cli.local_context import Claim, claim, nearest_data_dir
from pilothouse.cli.output import Output
from pilothouse.cli.session import Common, Session

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PILOT_SERVER", "PILOT_TOKEN", "PILOT_CONTEXT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    return ContextStore(tmp_path / "config")


def test_what_is_saved_is_loaded_and_is_private(store: ContextStore) -> None:
    assert store.load() == Contexts()
    local = Context("local", "http://127.0.0.1:8080", "s3cret", "127.0.0.1:9090")
    store.save(local)
    assert store.load() == Contexts("local", {"local": local})
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_the_file_stays_private_when_it_is_replaced(store: ContextStore) -> None:
    store.save(Context("a", "http://a"))
    store.path.chmod(0o644)
    store.save(Context("b", "http://b"))
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert sorted(p.name for p in store.path.parent.iterdir()) == [".contexts.lock", "contexts.toml"]


@given(st.dictionaries(text, st.tuples(text, text, text, text), max_size=4), text)
def test_any_text_survives_the_file(found: dict[str, tuple[str, str, str, str]], current: str) -> None:
    contexts = Contexts(current, {name: Context(name, *rest) for name, rest in found.items()})
    raw = tomllib.loads(render(contexts))
    assert raw["current"] == current
    for name, context in contexts.all.items():
        saved = raw["contexts"][name]
        kept = [saved.get(key, "") for key in ("server", "token", "grpc", "data_dir")]
        assert kept == [context.server, context.token, context.grpc, context.data_dir]


def test_writers_at_the_same_time_lose_nothing(store: ContextStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.save(Context(f"c{n}", f"http://{n}"), use=False), range(24)))
    assert set(store.load().all) == {f"c{n}" for n in range(24)}


def test_logging_out_keeps_the_server(store: ContextStore) -> None:
    store.save(Context("a", "http://a", "t"))
    store.forget_token("a")
    assert store.load().all["a"] == Context("a", "http://a")


def test_using_another(store: ContextStore) -> None:
    store.save(Context("a", "http://a"))
    store.save(Context("b", "http://b"))
    store.use("a")
    assert store.load().current == "a"
    with pytest.raises(UsageError, match="known: a, b"):
        store.use("c")
    assert store.load().current == "a"


def test_a_damaged_file_is_named(store: ContextStore) -> None:
    store.path.parent.mkdir()
    store.path.write_text("current = ")
    with pytest.raises(CliError, match=r"contexts\.toml is damaged"):
        store.load()


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_CONFIG_HOME", "/a")
    assert config_home() == Path("/a")
    monkeypatch.delenv("PILOT_CONFIG_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/b")
    assert config_home() == Path("/b/pilothouse")


# -- which one is in force --------------------------------------------------------------------------------


def target(store: ContextStore, **options: str) -> tuple[str, str]:
    context = Session(Common(**options), Output(), store).target()
    return context.server, context.token


@pytest.fixture
def two(store: ContextStore) -> ContextStore:
    store.save(Context("a", "http://a:1", "token-a"))
    store.save(Context("b", "http://b:1", "token-b"))
    return store


def test_the_current_or_the_named_one(two: ContextStore) -> None:
    assert target(two) == ("http://b:1", "token-b")
    assert target(two, context="a") == ("http://a:1", "token-a")


def test_the_environment_wins_over_the_current_one(
    two: ContextStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOT_TOKEN", "token-e")
    assert target(two) == ("http://b:1", "token-e")
    monkeypatch.setenv("PILOT_SERVER", "http://e:1/")
    assert target(two) == ("http://e:1", "token-e")
    assert target(two, server="http://o:1", token="token-o") == ("http://o:1", "token-o")
    assert target(two, context="a") == ("http://a:1", "token-a"), "an option is stronger than the environment"


def test_a_saved_token_goes_to_its_own_server_only(two: ContextStore) -> None:
    assert target(two, server="http://elsewhere:1") == ("http://elsewhere:1", "")
    assert target(two, server="b:1") == ("http://b:1", "token-b")


def test_without_any(store: ContextStore) -> None:
    with pytest.raises(NotLoggedIn):
        target(store)


# -- the login of `pilot up` ------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(data_dir: Path) -> Iterator[None]:
    """Another process has a server on this data directory."""
    program = "from pilothouse.server.lock import data_dir_lock; from pathlib import Path\n"
    program += f"with data_dir_lock(Path({str(data_dir)!r})): print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield
        process.kill()


def claimed(store: ContextStore, data_dir: Path, port: int) -> Claim:
    return claim(store, f"http://127.0.0.1:{port}", f"127.0.0.1:{port + 1}", data_dir)


def test_the_first_is_local_and_stays_so(store: ContextStore, tmp_path: Path) -> None:
    data = tmp_path / "shop" / ".pilothouse"
    first = claimed(store, data, 1)
    assert first.context == Context("local", "http://127.0.0.1:1", "", "127.0.0.1:2", str(data))
    store.save(replace(first.context, token="kept"))
    again = claimed(store, data, 3)
    assert again.context == Context("local", "http://127.0.0.1:3", "kept", "127.0.0.1:4", str(data))
    assert (again.current, again.others, again.replaced) == ("local", (), None)


def test_what_runs_keeps_its_name_and_stays_current(store: ContextStore, tmp_path: Path) -> None:
    first = tmp_path / "a" / ".pilothouse"
    claimed(store, first, 1)
    with serving(first):
        names = [
            claimed(store, tmp_path / name, number).context.name
            for number, name in enumerate(("shop/.pilothouse", "try", "x/try", "odd näme"), 10)
        ]
        second = claimed(store, tmp_path / "shop" / ".pilothouse", 20)
        assert (second.current, [other.name for other in second.others]) == ("local", ["local"])
    # Those that are not running gave way: of the two called `try` the second took the name.
    assert names == ["local-shop", "local-try", "local-try", "local-odd-n-me"]
    assert claimed(store, tmp_path / "shop" / ".pilothouse", 20).context.name == "local-shop"
    other = claimed(store, tmp_path / "new", 21)
    assert (other.context.name, other.current) == ("local", "local")
    assert other.replaced is not None
    assert other.replaced.data_dir == str(first)


def test_names_go_on_with_the_port(store: ContextStore, tmp_path: Path) -> None:
    one, two = tmp_path / "a" / "try", tmp_path / "b" / "try"
    claimed(store, tmp_path / "first", 1)
    with serving(tmp_path / "first"):
        claimed(store, one, 2)
        with serving(one):
            assert claimed(store, two, 3).context.name == "local-try-3"


def test_a_token_of_another_server_is_not_taken_along(store: ContextStore, tmp_path: Path) -> None:
    made = claimed(store, tmp_path / "a", 1)
    store.save(replace(made.context, token="of the first"))
    assert claimed(store, tmp_path / "b", 2).context.token == ""


def test_a_login_of_before_data_directories_were_noted(store: ContextStore, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        store.save(Context("local", f"http://127.0.0.1:{port}", "old"))
        assert claimed(store, tmp_path / "elsewhere", 1).context.name == "local-elsewhere"
        mine = claimed(store, tmp_path / "mine", port)  # only this server listens at that address
        assert (mine.context.name, mine.context.token) == ("local", "old")


def test_the_nearest_data_directory(tmp_path: Path) -> None:
    def used(directory: Path) -> Path:
        (directory / ".pilothouse").mkdir(parents=True)
        (directory / ".pilothouse" / "server.key").touch()
        return directory / ".pilothouse"

    deep = tmp_path / "work" / "tree" / "a" / "b"
    deep.mkdir(parents=True)
    outer = used(tmp_path)
    assert nearest_data_dir(deep) == deep / ".pilothouse", "outside git only here"
    (tmp_path / "work" / "tree" / ".git").mkdir()
    assert nearest_data_dir(deep) == deep / ".pilothouse", "never above the work tree"
    top = used(tmp_path / "work" / "tree")
    assert nearest_data_dir(deep) == top
    assert nearest_data_dir(top.parent) == top
    agents = tmp_path / "work" / "tree" / "a" / ".pilothouse" / "agent-x"
    agents.mkdir(parents=True)
    assert nearest_data_dir(deep) == top, "a directory of agents holds no server's data"
    if os.getuid() == 0:
        os.chown(top, 12345, 12345)
        assert nearest_data_dir(deep) == deep / ".pilothouse", "what is somebody else's is not used"
    assert nearest_data_dir(tmp_path) == outer
