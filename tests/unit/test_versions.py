"""Which releases of our own agents and clients a server serves."""

from __future__ import annotations

import pytest

from pilothouse import __version__
from pilothouse.access.versions import ClientTooOld, check_client


@pytest.mark.parametrize(
    ("server", "client"),
    [
        ("0.1.0", "0.1.0"),
        ("0.1.0", "0.0.9"),
        ("0.3.0", "0.2.0"),
        ("0.3.4", "0.2.9"),
        ("0.3.0", "0.3.7"),
        ("0.3.0", "0.4.0"),  # newer ones are for the newer to judge
        ("0.10.0", "0.9.0"),
        ("1.0.0", "0.1.0"),  # which release was the last before 1.0 is not known
        ("1.1.0", "1.0.3"),
        ("2.0.1", "1.7.0"),
        ("0.3.0", "0.3.0.dev1"),
        ("0.3.0", "0.2.0rc1"),
        ("dev", "0.1.0"),
    ],
)
@pytest.mark.parametrize("product", ["pilot", "pilothouse", "pilothouse-agent"])
def test_this_release_and_the_one_before_are_served(server: str, client: str, product: str) -> None:
    check_client(f"{product}/{client}", server)
    check_client(f"{product}/{client} grpc-python-asyncio/1.85.1", server)


@pytest.mark.parametrize(
    ("server", "client"),
    [
        ("0.3.0", "0.1.9"),
        ("0.10.0", "0.8.0"),
        ("1.1.0", "0.9.0"),
        ("1.3.2", "1.1.9"),
        ("2.0.0", "0.9.1"),
        ("0.3.0", "0.1.0.dev1"),
    ],
)
def test_older_ones_get_the_command_that_upgrades(server: str, client: str) -> None:
    with pytest.raises(ClientTooOld) as refused:
        check_client(f"pilot/{client}", server)
    assert (refused.value.code, refused.value.status) == ("CLIENT_TOO_OLD", 426)
    assert refused.value.message.startswith(
        f"pilot {client} is too old for this server ({server}), which serves "
    )
    assert refused.value.message.endswith(f"pip install --upgrade pilothouse=={server}")
    with pytest.raises(ClientTooOld, match=f"pilothouse-agent {client} "):
        check_client(f"pilothouse-agent/{client} grpc-python-asyncio/1.85.1 (linux; chttp2)", server)


@pytest.mark.parametrize(
    "user_agent",
    [
        "",
        "curl/7.88.1",
        "Mozilla/5.0 (X11) pilot/0.1.0",
        "pilot",
        "pilot/",
        "pilot/new",
        "pilotage/0.1.0",
        "my-pilot/0.1.0",
        "python-httpx/0.28.1",
        "pilot/0.1.0;x",
        "pilot/" + "9" * 5000,
    ],
)
def test_who_is_not_ours_is_never_refused(user_agent: str) -> None:
    check_client(user_agent, "99.5.0")


def test_this_release_serves_itself() -> None:
    check_client(f"pilot/{__version__}", __version__)
