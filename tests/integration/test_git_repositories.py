"""Repositories at a forge: what is read and pushed, and what a hostile forge or repository gains."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest

from pilothouse.access.errors import Refusal
from pilothouse.pipelines.errors import BranchMoved, RepositoryInvalid, RepositoryUnavailable
from pilothouse.pipelines.git.address import read_address
from pilothouse.pipelines.git.copy import Author
from pilothouse.pipelines.git.refs import Head
from pilothouse.pipelines.git.repositories import GitSettings, Remote, Repositories
from support.checkout_kit import git
from support.forge import TOKEN, Forge, forge, ssh_forge

SPEC = "jobs:\n  - name: build\n    steps:\n      - run: make\n"
ALLOWED = ("http", "file")
BIG = 1 << 20


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Forge]:
    with forge(tmp_path / "forge") as running:
        yield running


@pytest.fixture
def repositories(tmp_path: Path) -> Repositories:
    return Repositories(tmp_path / "copies", GitSettings(known_hosts=tmp_path / "known_hosts"))


def remote(url: str, secret: str = TOKEN, project: str = "p") -> Remote:
    return Remote(project, read_address(url, ALLOWED), secret)


async def test_a_branch_is_read_at_its_head(served: Forge, repositories: Repositories) -> None:
    clone = served.make("shop", {".pilot.yaml": SPEC})
    there = remote(served.http("shop"))
    first = await repositories.head(there, "main")
    assert first == await repositories.head(there, ""), "the default branch is found"
    assert first == Head(git(clone, "rev-parse", "HEAD").decode().strip(), "main")
    assert (await repositories.head(there, "other")).commit == ""
    (clone / ".pilot.yaml").write_text("jobs: []\n")
    second = served.push(clone)
    async with repositories.fetched(there, first.commit, "main", 1) as copy:
        assert await copy.file(first.commit, ".pilot.yaml", BIG) == SPEC.encode(), (
            "of an older commit, by its id"
        )
    async with repositories.fetched(there, second, "main", 1) as copy:
        assert await copy.file(second, ".pilot.yaml", BIG) == b"jobs: []\n"
        assert await copy.file(second, "no/such.yaml", BIG) is None


async def test_a_token_is_needed_every_time_and_is_nowhere_seen(
    served: Forge, repositories: Repositories, tmp_path: Path
) -> None:
    served.make("shop", {".pilot.yaml": SPEC})
    good = remote(served.http("shop"), f"ci:{TOKEN}")
    head = await repositories.head(good, "main")
    async with repositories.fetched(good, head.commit, "main", 1):
        pass
    for secret in ("", "ci:wrong-1234"):
        with pytest.raises(RepositoryUnavailable) as caught:  # although the copy is here
            await repositories.head(remote(served.http("shop"), secret), "main")
        assert "wrong-1234" not in str(caught.value)
    written = b"".join(path.read_bytes() for path in (tmp_path / "copies").rglob("*") if path.is_file())
    assert TOKEN.encode() not in written


async def test_a_token_does_not_follow_a_redirect(
    served: Forge, repositories: Repositories, tmp_path: Path
) -> None:
    served.make("shop", {".pilot.yaml": SPEC})
    with forge(tmp_path / "thief") as thief:
        served.token, served.redirect = "", thief.url
        with pytest.raises(RepositoryUnavailable):
            await repositories.head(remote(served.http("shop")), "main")
        assert served.requests
        assert thief.requests == []


async def test_a_commit_is_pushed_and_only_onto_the_expected_head(
    served: Forge, repositories: Repositories
) -> None:
    clone = served.make("shop", {".pilot.yaml": SPEC, "bin/run": "#!/bin/sh\n"})
    there = remote(served.http("shop"))
    head = (await repositories.head(there, "main")).commit
    async with repositories.fetched(there, head, "main", 1) as copy:
        made = await copy.commit_file(
            head,
            ".pilot.yaml",
            b"jobs: []\n",
            "Save\n\nwith a body",
            Author("Ada", "a@x.invalid"),
            1_700_000_000,
        )
        await copy.push(made, "main", head)
        assert (await repositories.head(remote(served.http("shop"), project="q"), "main")).commit == made
    git(clone, "pull", "-q")
    assert git(clone, "log", "-1", "--format=%an <%ae> %at %s|%b").decode().strip() == (
        "Ada <a@x.invalid> 1700000000 Save|with a body"
    )
    assert git(clone, "diff", "--stat", "HEAD~", "--", ".").decode().count("|") == 1, (
        "nothing else has changed"
    )
    async with repositories.fetched(there, made, "main", 1) as copy:
        again = await copy.commit_file(made, ".pilot.yaml", b"x", "m", Author("Ada", "a@x.invalid"), 1)
        (clone / "other").write_text("meanwhile")
        moved = served.push(clone)
        with pytest.raises(BranchMoved):
            await copy.push(again, "main", made)
        with pytest.raises(BranchMoved):
            await copy.push(again, "main", "")  # the branch exists
        await copy.push(again, "side", "")
    assert git(clone, "ls-remote", "origin", "main").decode().split()[0] == moved


async def test_histories_of_every_depth(served: Forge, repositories: Repositories) -> None:
    clone = served.make("deep", {"a": "0"})
    for number in range(1, 6):
        (clone / "a").write_text(str(number))
        last = served.push(clone)
    there = remote(served.http("deep"))

    async def count(depth: int) -> int:
        async with repositories.fetched(there, last, "main", depth) as copy:
            return len((await copy.git("rev-list", last, "--")).split())

    assert await count(1) == 1
    assert await count(3) == 3
    assert await count(0) == 6
    (clone / "a").write_text("new")
    last = served.push(clone)
    assert await count(1) == 7, "a complete copy is not cut off by a shallow fetch"


async def test_tags_of_the_history(served: Forge, repositories: Repositories) -> None:
    clone = served.make("tagged", {"a": "0"})
    git(clone, "tag", "light")
    git(clone, "tag", "-m", "annotated", "v1.0")
    (clone / "a").write_text("1")
    last = served.push(clone)
    git(clone, "push", "-q", "origin", "--tags")
    there = remote(served.http("tagged"))
    async with repositories.fetched(there, last, "main", 1) as copy:
        assert await copy.tags({last}, 100) == []
    async with repositories.fetched(there, last, "main", 0) as copy:
        commits = (await copy.git("rev-list", last, "--")).decode().split()
        tags = {tag.name: tag for tag in await copy.tags(commits, 100)}
        assert set(tags) == {"light", "v1.0"}
        assert tags["v1.0"].annotated
        assert not tags["light"].annotated
        assert (await copy.pack_of([tags["v1.0"].object]))[:4] == b"PACK"


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch /tmp/x",
        "ext::sh -c touch% /tmp/x",
        "ssh://-oProxyCommand=touch/x",
        "ssh://host/../x",
        "-oProxyCommand=x:y",
        "git@-host:path",
        "host:-path",
        "https://user:pass@host/x",
        "https://token@host/x",
        "file:///etc",
        "http://host/x",
        "git://host/x",
        "/etc",
        "https://host/a b",
        "https://host/\n--x",
        "https://host",
        "https://ho$(x)st/x",
        "x" * 2000,
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(RepositoryInvalid):
        read_address(url)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://Git.example/team/shop.git", "https://git.example/team/shop"),
        ("https://git.example:8443/team/shop/", "https://git.example:8443/team/shop"),
        ("ssh://git@git.example:2222/team/shop.git", "ssh://git.example:2222/team/shop"),
        ("git@git.example:team/shop.git", "git.example:team/shop"),
        ("https://[::1]:8443/x", "https://[::1]:8443/x"),
    ],
)
def test_keys_are_those_of_local_checkouts(url: str, key: str) -> None:
    from pilothouse.cli.checkout.origin import key_of, without_credentials

    assert read_address(url).key == key == key_of(without_credentials(url))


async def test_a_hostile_repository_only_fails(
    served: Forge, repositories: Repositories, tmp_path: Path
) -> None:
    """Links, directories, submodules and hooks in place of the spec; attributes with filters."""
    ran = tmp_path / "ran"
    clone = served.make("evil", {"dir/file": "x", ".gitattributes": "* filter=evil\n", "big": "x" * 5000})
    (clone / "link").symlink_to("/etc/passwd")
    (clone / "loop").symlink_to("loop")
    git(clone, "config", "filter.evil.smudge", f"touch {ran}")
    (clone / "sub").mkdir()
    git(clone, "update-index", "--add", "--cacheinfo", "160000,1234567890123456789012345678901234567890,sub")
    head = served.push(clone)
    there = remote(served.http("evil"))
    async with repositories.fetched(there, head, "main", 1) as copy:
        for hook in ("reference-transaction", "pre-push", "post-index-change", "pre-auto-gc"):
            (copy.directory / "hooks").mkdir(exist_ok=True)
            path = copy.directory / "hooks" / hook
            path.write_text(f"#!/bin/sh\ntouch {ran}\n")
            path.chmod(0o755)
        for name in ("link", "loop", "dir", "sub"):
            with pytest.raises(RepositoryUnavailable):
                await copy.file(head, name, BIG)
        with pytest.raises(RepositoryUnavailable):
            await copy.file(head, "big", 4999)
        assert await copy.file(head, "dir/file", BIG) == b"x"
        made = await copy.commit_file(head, "dir/file", b"y", "m", Author("a", "b"), 1)
        await copy.push(made, "main", head)
    (clone / "more").write_text("1")
    async with repositories.fetched(there, made, "main", 0):
        pass
    assert not ran.exists()


async def test_a_fetch_that_is_too_large_fails(served: Forge, tmp_path: Path) -> None:
    clone = served.make("large", {"a": "0"})
    (clone / "noise").write_bytes(os.urandom(3 << 20))
    head = served.push(clone)
    bounded = Repositories(tmp_path / "small", GitSettings(fetched=1 << 20))
    with pytest.raises(RepositoryUnavailable, match=r"MiB at most|large|File size"):
        async with bounded.fetched(remote(served.http("large")), head, "main", 1):
            raise AssertionError("it is not here")


async def test_copies_are_bounded(served: Forge, tmp_path: Path) -> None:
    bounded = Repositories(tmp_path / "few", GitSettings(kept=200_000))
    for name in ("one", "two", "three"):
        clone = served.make(name, {"a": "0"})
        (clone / "noise").write_bytes(os.urandom(150_000))
        head = served.push(clone)
        async with bounded.fetched(remote(served.http(name)), head, "main", 1):
            pass
    assert len(list((tmp_path / "few").glob("*.git"))) == 1, "only the newest fits"


async def test_repositories_that_are_not_there_leave_nothing(
    repositories: Repositories, tmp_path: Path
) -> None:
    def asked(number: int) -> Awaitable[Head]:
        return repositories.head(remote(f"http://127.0.0.1:9/{number}", "", f"p{number}"), "main")

    answers = await asyncio.gather(*map(asked, range(5)), return_exceptions=True)
    assert all(isinstance(each, RepositoryUnavailable) for each in answers), answers
    assert {path.name for path in (tmp_path / "copies").iterdir()} == {"asking", "scratch"}


async def test_copies_are_not_too_many(
    served: Forge, repositories: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilothouse.pipelines.git.repositories.MAX_COPIES", 2)
    served.make("shop", {".pilot.yaml": SPEC})
    for project in ("a", "b", "c", "d"):
        there = remote(served.http("shop"), project=project)
        head = await repositories.head(there, "main")
        async with repositories.fetched(there, head.commit, "main", 1):
            pass
    kept = {path.stem for path in (tmp_path / "copies").glob("*.git")}
    assert kept == {remote(served.http("shop"), project=project).directory for project in ("c", "d")}


async def test_nobody_takes_all_slots(served: Forge, repositories: Repositories) -> None:
    import asyncio

    served.make("shop", {"a": "0"})
    asked = [repositories.head(remote(served.http("shop"), project="greedy"), "main") for _ in range(40)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(
        isinstance(found, Head) or getattr(found, "code", "") == "CALLER_QUEUE_FULL" for found in outcomes
    )
    assert (await repositories.head(remote(served.http("shop"), project="modest"), "main")).commit


async def test_ssh_with_a_known_host_and_a_key(tmp_path: Path) -> None:
    async with ssh_forge(tmp_path / "ssh") as sshd:
        with forge(tmp_path / "forge") as served:
            served.make("shop", {".pilot.yaml": SPEC})
        bare = tmp_path / "forge" / "shop.git"
        known = tmp_path / "known_hosts"
        repositories = Repositories(tmp_path / "copies", GitSettings(known_hosts=known))
        there = Remote("p", read_address(sshd.url(bare)), sshd.key)
        with pytest.raises(RepositoryUnavailable, match=r"[Hh]ost key"):
            await repositories.head(there, "main")
        known.write_text(sshd.known_hosts)
        head = await repositories.head(there, "main")
        async with repositories.fetched(there, head.commit, "main", 1) as copy:
            assert await copy.file(head.commit, ".pilot.yaml", BIG) == SPEC.encode()
            made = await copy.commit_file(head.commit, "b", b"1", "m", Author("a", "b"), 1)
            await copy.push(made, "main", head.commit)
        with pytest.raises(Refusal):
            await repositories.head(Remote("p", there.address, ""), "main")
        with pytest.raises(RepositoryInvalid):
            await repositories.head(Remote("p", there.address, "a-token"), "main")
        assert list((tmp_path / "copies" / "scratch").glob("key-*")) == [], "keys are deleted after use"
