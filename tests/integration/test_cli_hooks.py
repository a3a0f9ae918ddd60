"""`pilot pipeline run` in git hooks: what is sent is what is about to be committed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.checkout_kit import GIT, commit, git, lay_out
from support.checkout_server import RUN, SPEC, Server, serving
from support.checkout_states import base, write

HOOK = """\
#!/bin/sh
git ls-files -s -z > {told}/index
git diff --raw -z --no-renames > {told}/diff
{before}
exec {pilot} -m pilothouse pipeline run --detach > {told}/out 2> {told}/err
"""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with serving(made):
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = base(tmp_path / "repo")
    write(found, ".pilot.yaml", SPEC)
    write(found, "dir/.pilot.yaml", SPEC)
    commit(found)
    return found


Commit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def committing(root: Path, tmp_path: Path, server: Server) -> Commit:
    """``git commit`` with a pre-commit hook that sends the work tree. ``before``: what the hook does before that."""
    told = tmp_path / "told"
    told.mkdir()
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("PILOT_", "GIT_"))} | GIT
    environment |= {
        "PILOT_CONFIG_HOME": str(tmp_path / "config"),
        "PILOT_TOKEN": "t",
        "PILOT_SERVER": server.url,
        "GIT_CEILING_DIRECTORIES": str(tmp_path),
    }

    def run(*words: str, before: str = "", at: Path = root, hook: str = "pre-commit", **more: str):
        file = root / ".git/hooks" / hook
        file.parent.mkdir(exist_ok=True)
        file.write_text(HOOK.format(told=told, before=before, pilot=sys.executable))
        file.chmod(0o755)
        return subprocess.run(
            ("git", "commit", "-q", "-m", "x", *words),
            cwd=at,
            env=environment | more,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def arrived(server: Server, tmp_path: Path) -> Path:
    """What was sent, laid out."""
    *packs, archive = server.sent("/blobs")
    (tmp_path / "sent.tar.gz").write_bytes(archive)
    copy = tmp_path / "copy"
    lay_out(tmp_path / "sent.tar.gz", {hashlib.sha256(pack).hexdigest(): pack for pack in packs}, copy)
    return copy


def check(server: Server, tmp_path: Path) -> Path:
    """The copy's index is the one that git showed to the hook, and so are its changes; the copy comes back."""
    told = tmp_path / "told"
    assert (told / "out").read_text() == f"{RUN}\n", (told / "err").read_text()
    copy = arrived(server, tmp_path)
    assert git(copy, "ls-files", "-s", "-z") == (told / "index").read_bytes()
    assert git(copy, "diff", "--raw", "-z", "--no-renames") == (told / "diff").read_bytes()
    return copy


_WORDS: list[tuple[str, ...]] = [(), ("-a",), ("b",), ("-i", "b"), ("--amend", "-a")]
_CASES = [
    *(("main", words, "") for words in _WORDS),
    *(("main", words, "cd dir") for words in _WORDS[:2]),
    *(("linked", words, "") for words in _WORDS[1:3]),
]


@pytest.mark.parametrize(("tree", "words", "before"), _CASES)
def test_what_is_about_to_be_committed_is_sent(
    root: Path,
    tmp_path: Path,
    server: Server,
    committing: Commit,
    words: tuple[str, ...],
    before: str,
    tree: str,
) -> None:
    if tree == "linked":
        git(root, "worktree", "add", "-q", "-b", "side", str(tmp_path / "linked"))
        root = tmp_path / "linked"
    head = git(root, "rev-parse", "HEAD").decode().strip()
    for name in ("a", "b", "c"):
        write(root, name, f"{name} changed\n")
    write(root, "new", "untracked")
    git(root, "add", "a")
    done = committing(*words, before=before, at=root)
    assert done.returncode == 0, (done.stderr, (tmp_path / "told/err").read_text())
    copy = check(server, tmp_path)
    assert server.trigger["commitSha"] == head, "what is committed has no id yet"
    assert server.trigger["dirty"] is True
    for name in ("a", "b", "c", "new"):
        assert (copy / name).read_text() == (root / name).read_text()
    staged = git(copy, "diff", "--cached", "--name-only").decode().split()
    expected = {(): ["a"], ("b",): ["b"], ("-i", "b"): ["a", "b"]}.get(words, ["a", "b", "c"])
    assert staged == expected


@pytest.mark.parametrize("how", ["changed", "unset"])
def test_after_the_commit_its_own_state_is_sent(
    root: Path, tmp_path: Path, server: Server, committing: Commit, how: str
) -> None:
    write(root, "a", "changed")
    write(root, "b", "changed")
    before = "unset GIT_INDEX_FILE" if how == "unset" else ""
    assert committing("a", hook="post-commit", before=before).returncode == 0
    copy = check(server, tmp_path)
    assert server.trigger["commitSha"] == git(root, "rev-parse", "HEAD").decode().strip()
    assert git(copy, "status", "--porcelain").decode() == " M b\n"


@pytest.mark.parametrize("words", [("-a",), ("b",)])
def test_a_hook_that_sends_another_repository(
    root: Path, tmp_path: Path, server: Server, committing: Commit, words: tuple[str, ...]
) -> None:
    """Its index is its own, not that of the repository that is committed to."""
    other = base(tmp_path / "other")
    write(other, ".pilot.yaml", SPEC)
    write(other, "b", "staged")
    git(other, "add", "-A")
    write(root, "b", "changed")
    assert committing(*words, before=f"cd {other}").returncode == 0
    copy = arrived(server, tmp_path)
    assert git(copy, "ls-files", "-s") == git(other, "ls-files", "-s")


def test_a_hook_of_a_submodule_sends_both_as_git_has_them(
    root: Path, tmp_path: Path, server: Server, committing: Commit
) -> None:
    library = base(tmp_path / "library")
    git(root, "submodule", "add", "-q", str(library), "lib")
    write(root, ".pilot.yaml", SPEC + "checkout: {submodules: true}\n")
    commit(root)
    hooks = root / ".git/modules/lib/hooks"
    hooks.mkdir(exist_ok=True)
    committing("--allow-empty", before="exit 0")
    (hooks / "pre-commit").write_text(
        (root / ".git/hooks/pre-commit").read_text().replace("exit 0", f"cd {root}")
    )
    (hooks / "pre-commit").chmod(0o755)
    write(root, "lib/a", "changed")
    assert committing("-a", at=root / "lib").returncode == 0
    copy = arrived(server, tmp_path)
    assert git(copy / "lib", "ls-files", "-s", "-z") == (tmp_path / "told/index").read_bytes()
    assert git(copy, "ls-files", "-s") == git(root, "ls-files", "-s")


@pytest.mark.parametrize("name", ["elsewhere", ".git/missing", ".git/of mine"])
def test_an_index_of_ones_own(
    root: Path, tmp_path: Path, server: Server, committing: Commit, name: str
) -> None:
    """An index in no git directory may be that of any repository: refused; one that is not there is none."""
    write(root, "a", "changed")
    index = tmp_path / "elsewhere" if name == "elsewhere" else root / name
    if "missing" not in name:
        git(root, "add", "a")
        os.rename(root / ".git/index", index)
        git(root, "reset", "-q", "--mixed")
    before = f"export GIT_INDEX_FILE='{index}'"
    committing("--allow-empty", before=before)
    error = (tmp_path / "told/err").read_text()
    if name == "elsewhere":
        assert f"error: GIT_INDEX_FILE is {index}, which is in no repository's git directory" in error
        assert "unset GIT_INDEX_FILE" in error
        assert not server.sent("/blobs")
        return
    staged = git(arrived(server, tmp_path), "diff", "--cached", "--name-only").decode()
    assert staged == ("a\n" if "of mine" in name else ""), error
