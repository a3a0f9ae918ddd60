"""Saved logins: what is kept, for whose eyes, and which one is in force."""

from __future__ import annotations

import stat
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.cli.context import Context, Contexts, ContextStore, config_home, render
from pilothouse.cli.errors import CliError, NotLoggedIn, UsageError
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


@given(st.dictionaries(text, st.tuples(text, text, text), max_size=4), text)
def test_any_text_survives_the_file(found: dict[str, tuple[str, str, str]], current: str) -> None:
    contexts = Contexts(current, {name: Context(name, *rest) for name, rest in found.items()})
    raw = tomllib.loads(render(contexts))
    assert raw["current"] == current
    for name, context in contexts.all.items():
        saved = raw["contexts"][name]
        assert (saved["server"], saved.get("token", ""), saved.get("grpc", "")) == (
            context.server,
            context.token,
            context.grpc,
        )


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
