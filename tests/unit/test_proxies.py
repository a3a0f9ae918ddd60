"""Which proxy leads to a server, by the environment; and that none leads to this machine."""

from __future__ import annotations

import pytest

from pilothouse.wire.proxies import BadProxy, grpc_proxy_for, is_loopback, proxy_for

PROXY = "http://p.example:3128"
FAR = "http://pilot.example:8080"


def chosen(url: str, **environ: str) -> str:
    """The proxy as displayed and its source; empty for none."""
    found = proxy_for(url, environ)
    return f"{found.shown} {found.variable}" if found else ""


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost.", "shop.localhost", "127.0.0.1", "127.1", "127.255.0.9", "::1", "[::1]",
     "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "0.0.0.0", "[::]", "::1%lo"],
)  # fmt: skip
def test_this_machine(host: str) -> None:
    assert is_loopback(host)
    named = f"[{host}]" if ":" in host and not host.startswith("[") else host
    every = {
        name: PROXY
        for kind in ("http", "https", "all")
        for name in (f"{kind}_proxy", f"{kind.upper()}_PROXY")
    }
    for scheme in ("http", "https"):
        if "%" not in host:
            assert proxy_for(f"{scheme}://{named}:8080", every) is None
    assert grpc_proxy_for(f"{named}:9090", {**every, "grpc_proxy": PROXY}) is None


@pytest.mark.parametrize(
    "host",
    ["localhost.example", "notlocalhost", "128.0.0.1", "10.0.0.1", "127.example", "::2", "1270.0.0.1", ""],
)
def test_other_machines(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ""),
        ({"http_proxy": PROXY}, f"{PROXY} http_proxy"),
        ({"HTTP_PROXY": PROXY}, f"{PROXY} HTTP_PROXY"),
        ({"http_proxy": "http://lower:1", "HTTP_PROXY": PROXY}, "http://lower:1 http_proxy"),
        ({"http_proxy": "", "HTTP_PROXY": PROXY}, ""),
        ({"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}, ""),
        ({"https_proxy": PROXY}, ""),
        ({"all_proxy": PROXY}, f"{PROXY} all_proxy"),
        ({"ALL_PROXY": PROXY}, f"{PROXY} ALL_PROXY"),
        ({"http_proxy": "http://first:1", "all_proxy": PROXY}, "http://first:1 http_proxy"),
        ({"http_proxy": "p.example:3128"}, f"{PROXY} http_proxy"),
        ({"http_proxy": "https://[2001:db8::1]:3128/"}, "https://[2001:db8::1]:3128 http_proxy"),
    ],
)
def test_which_variable(environ: dict[str, str], expected: str) -> None:
    assert chosen(FAR, **environ) == expected


def test_https_has_its_own() -> None:
    both = {"http_proxy": "http://a:1", "HTTPS_PROXY": "http://b:2"}
    assert chosen("https://pilot.example", **both) == "http://b:2 HTTPS_PROXY"
    assert chosen(FAR, **both) == "http://a:1 http_proxy"


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        (FAR, "pilot.example", True),
        (FAR, "PILOT.example", True),
        (FAR, "example", True),
        (FAR, ".example", True),
        (FAR, "*.example", True),
        (FAR, "other, pilot.example ,more", True),
        (FAR, "a pilot.example", True),
        (FAR, "pilot.example:8080", True),
        (FAR, "pilot.example:8081", False),
        (FAR, "*", True),
        (FAR, "ilot.example", False),
        (FAR, "example.org", False),
        (FAR, "", False),
        ("http://10.1.2.3", "10.0.0.0/8", True),
        ("http://10.1.2.3", "10.1.2.3", True),
        ("http://11.1.2.3", "10.0.0.0/8", False),
        ("http://[2001:db8::7]:8080", "2001:db8::/32", True),
        ("http://[2001:db8::7]:8080", "[2001:db8::7]", True),
        ("http://[2001:db9::7]:8080", "2001:db8::/32", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_what_is_reached_directly(url: str, no_proxy: str, direct: bool, variable: str) -> None:
    assert (proxy_for(url, {"http_proxy": PROXY, variable: no_proxy}) is None) == direct


def test_credentials_are_used_and_never_shown() -> None:
    found = proxy_for(FAR, {"http_proxy": "http://ann:s3cret@p.example:3128"})
    assert found is not None
    assert found.url == "http://ann:s3cret@p.example:3128"
    assert str(found) == f"the proxy {PROXY} (from http_proxy)"
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    "value",
    ["socks5://ann:s3cret@p:1080", "http://ann:s3cret@", "http://p:s3cret", "http://[s3cret", "s3cret\n://x"],
)
def test_what_cannot_be_used(value: str) -> None:
    with pytest.raises(BadProxy) as caught:
        proxy_for(FAR, {"all_proxy": value})
    assert "all_proxy" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"https_proxy": PROXY, "http_proxy": "http://b:1"}, "https_proxy"),
        ({"http_proxy": PROXY}, "http_proxy"),
        ({"grpc_proxy": PROXY, "https_proxy": "http://b:1"}, "grpc_proxy"),
        ({"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "all_proxy": PROXY}, ""),
        ({"http_proxy": "https://p:1"}, ""),
        ({"http_proxy": "socks5://p:1"}, ""),
        ({"http_proxy": PROXY, "no_proxy": "pilot.example"}, ""),
        ({"http_proxy": PROXY, "no_proxy": "pilot.example", "no_grpc_proxy": "other"}, "http_proxy"),
    ],
)
def test_what_grpc_reads(environ: dict[str, str], expected: str) -> None:
    found = grpc_proxy_for("pilot.example:9090", environ)
    assert (found.variable if found else "") == expected
