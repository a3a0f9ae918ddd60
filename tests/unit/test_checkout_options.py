"""Who a repository is, and how much of it is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pilothouse.cli.checkout.options import CheckoutOptions, options_of, sent_limit
from pilothouse.cli.checkout.origin import key_of, last_segment, without_credentials
from pilothouse.cli.checkout.repository import find_repository
from pilothouse.cli.errors import UsageError
from support.checkout_kit import git, picture, same
from support.checkout_states import base, write

WHOLE = CheckoutOptions(depth=0)
SUBMODULES = CheckoutOptions(submodules=True)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return base(tmp_path / "repo")


def log(root: Path) -> list[bytes]:
    return git(root, "rev-list", "HEAD").split()


# -- who it is --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "origin", "key", "name"),
    [
        ("https://Git.Example/team/shop.git", "https://Git.Example/team/shop.git", "https://git.example/team/shop", "shop"),
        ("https://me:pw@git.example:8443/shop/", "https://git.example:8443/shop/", "https://git.example:8443/shop", "shop"),
        ("https://TOKEN@h/x.git?access=1#f", "https://h/x.git", "https://h/x", "x"),
        ("https://me@corp:pw@h/x", "https://h/x", "https://h/x", "x"),
        ("ssh://git:pw@Host:22/t/x.git", "ssh://git@Host:22/t/x.git", "ssh://host:22/t/x", "x"),
        ("git@Host.example:team/shop.git", "git@Host.example:team/shop.git", "host.example:team/shop", "shop"),
        ("host:shop", "host:shop", "host:shop", "shop"),
        ("/srv/git/shop.git", "/srv/git/shop.git", "/srv/git/shop", "shop"),
        ("file:///srv/shop.git", "file:///srv/shop.git", "file:///srv/shop", "shop"),
        ("ext::sh -c 'secret'", "", "", ""),
        ("codecommit::eu://me@shop", "", "", ""),
        ("https://h/x\n", "", "", ""),
        ("https://h/" + "x" * 2000, "", "", ""),
    ],
)  # fmt: skip
def test_origins(url: str, origin: str, key: str, name: str) -> None:
    assert without_credentials(url) == origin
    assert key_of(origin) == key
    assert last_segment(origin) == name


def test_who_a_repository_is(root: Path, tmp_path: Path) -> None:
    first = find_repository(root / "dir")
    assert (first.root, first.name, first.branch, first.tag) == (root, "repo", "main", "")
    assert first.key.startswith("dir:")
    assert first.key != find_repository(base(tmp_path / "other")).key
    git(root, "remote", "add", "origin", "https://me:hush@git.example/team/shop.git")
    git(root, "tag", "-a", "-m", "x", "v1")
    found = find_repository(root)
    assert (found.key, found.name, found.tag) == ("https://git.example/team/shop", "shop", "v1")
    assert "hush" not in repr(found)
    assert found.commit == git(root, "rev-parse", "HEAD").decode().strip()
    git(root, "remote", "set-url", "origin", "../library.git")
    assert find_repository(root).key == f"{tmp_path}/library"


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("jobs: []", CheckoutOptions()),
        (
            "checkout: {depth: 0, tags: true, submodules: true, lfs: true}",
            CheckoutOptions(0, True, True, True),
        ),
        ('{"checkout": {"depth": 7}}', CheckoutOptions(7)),
        ("checkout: {depth: true, tags: 'yes', submodules: 1}", CheckoutOptions()),
        ("checkout: {depth: -1}", CheckoutOptions()),
        ("checkout: [a", CheckoutOptions()),
        ("checkout: !!python/object/apply:os.system [id]", CheckoutOptions()),
        ("- checkout", CheckoutOptions()),
        ("a: &a [checkout]\n" + "b: " + "[" * 5000, CheckoutOptions()),
    ],
)
def test_options(spec: str, expected: CheckoutOptions) -> None:
    assert options_of(spec) == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 256 << 20),
        ("1000", 1000),
        ("512MiB", 512 << 20),
        ("2 GB", 2 << 30),
        ("1.5g", 3 << 29),
        ("10k", 10240),
    ],
)
def test_limits(text: str, size: int) -> None:
    assert sent_limit({"PILOT_MAX_CHECKOUT": text}) == size


@pytest.mark.parametrize("text", ["0", "much", "-1", "1e9", "5PiB", "9" * 400])
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="PILOT_MAX_CHECKOUT"):
        sent_limit({"PILOT_MAX_CHECKOUT": text})


def test_the_picture_sees_differences(root: Path, tmp_path: Path) -> None:
    """The comparison that the other tests rest on."""
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    same(root, tmp_path / "copy")
    write(tmp_path / "copy", "new", "x")
    assert picture(root) != picture(tmp_path / "copy")
