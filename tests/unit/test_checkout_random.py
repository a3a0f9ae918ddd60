"""Any sequence of changes to a work tree arrives as it is, again and again at one server."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilothouse.cli.checkout.options import CheckoutOptions
from support.checkout_kit import Server, commit, git, same, travel
from support.checkout_states import base

PATHS = ("a", "b", "dir", "dir/x", "dir/sub", "dir/sub/z", "new", "new/er", "a/b", "n\n", "*")
ACTIONS = (
    "write",
    "write empty",
    "append",
    "delete",
    "link",
    "link to directory",
    "executable",
    "touch",
    "add",
    "add all",
    "intend to add",
    "unstage",
    "remove",
    "forget",
    "restore",
    "commit",
    "amend",
    "branch",
    "back",
    "merge",
    "detach",
    "nest",
    "assume unchanged",
    "no longer assume",
    "skip worktree",
    "no longer skip",
    "send",
)
# Few paths at a time: then several changes meet at one.
STEPS = st.lists(st.sampled_from(PATHS), min_size=1, max_size=3).flatmap(
    lambda paths: st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from(paths)), max_size=12)
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", tempfile.gettempdir())
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")


def clear(root: Path, name: str) -> Path:
    """Make room at a path; its parents become directories."""
    path = root
    for part in name.split("/")[:-1]:
        path = path / part
        if path.is_symlink() or path.is_file():
            path.unlink()
        path.mkdir(exist_ok=True)
    path = root / name
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    return path


def act(root: Path, action: str, name: str) -> None:
    """One change; what is not possible just then is left."""

    def run(*arguments: str) -> None:
        git(root, "--literal-pathspecs", *arguments, ok=False)

    match action:
        case "write" | "write empty":
            clear(root, name).write_text(f"{name}\n" if action == "write" else "")
        case "append" if (root / name).is_file():
            with (root / name).open("a") as file:
                file.write("more\n")
        case "delete":
            clear(root, name)
        case "link" | "link to directory":
            clear(root, name).symlink_to("nowhere" if action == "link" else "dir/sub")
        case "executable" if (root / name).is_file():
            (root / name).chmod((root / name).stat().st_mode ^ 0o111)
        case "touch" if (root / name).is_file():
            os.utime(root / name, (1, 1))
        case "add":
            run("add", "--", name)
        case "add all":
            run("add", "-A")
        case "intend to add":
            run("add", "-N", "--", name)
        case "unstage":
            run("reset", "-q", "--", name)
        case "remove":
            run("rm", "-q", "-r", "-f", "--", name)
        case "forget":
            run("rm", "-q", "-r", "--cached", "--", name)
        case "restore":
            run("checkout", "-q", "--", name)
        case "commit":
            run("commit", "-q", "-a", "-m", "x")
        case "amend":
            run("commit", "-q", "--amend", "-m", "y")
        case "branch":
            run("checkout", "-q", "-B", "side")
        case "back":
            run("checkout", "-q", "main")
        case "merge":
            run("merge", "-q", "side")
        case "detach":
            run("checkout", "-q", "--detach", "HEAD~1")
        case "assume unchanged" | "no longer assume" | "skip worktree" | "no longer skip":
            flag = {"a": "assume-unchanged", "s": "skip-worktree"}[action.removeprefix("no longer ")[0]]
            run("update-index", f"--{'no-' if action.startswith('no') else ''}{flag}", "--", name)
        case "nest":
            clear(root, name).mkdir()
            git(root, "init", "-q", str(root / name))
            (root / name / "inner").write_text("x")
            commit(root / name)


@settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(STEPS, st.sampled_from([0, 1, 2]))
def test_any_sequence_of_changes_arrives(steps: list[tuple[str, str]], depth: int) -> None:
    server, options = Server(), CheckoutOptions(depth=depth)
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory).resolve()
        root = base(scratch / "repo")
        for action, name in (*steps, ("send", "")):
            if action == "send":
                same(root, travel(root, scratch, server, options).copy)
            else:
                act(root, action, name)
