"""Writes the ``.git`` directory of each repository of a work tree (docs/checkout.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pilothouse.agent.manifest import Repository
from pilothouse.workers.git import config_file


def write_git_dir(git_dir: Path, repository: Repository, everything: list[Repository]) -> None:
    """Create a minimal ``.git`` directory, without templates, hooks and reflogs."""
    git_dir.mkdir(mode=0o755)
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        (git_dir / name).mkdir(parents=True)
    branch = os.fsencode(repository.branch)
    head = b"ref: refs/heads/" + branch if branch else repository.commit.encode()
    (git_dir / "HEAD").write_bytes(head + b"\n")
    if branch and repository.commit:
        ref = git_dir / "refs" / "heads" / repository.branch
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(repository.commit + "\n")
    if repository.shallow:
        (git_dir / "shallow").write_text("".join(f"{commit}\n" for commit in repository.shallow))
    (git_dir / "config").write_bytes(os.fsencode(config_file(_settings(repository, everything))))


def _settings(
    repository: Repository, everything: list[Repository]
) -> list[tuple[str, str, Mapping[str, str]]]:
    sha256 = repository.object_format == "sha256"
    core = {"repositoryFormatVersion": "1" if sha256 else "0", "fileMode": "true", "bare": "false"}
    core |= {"logAllRefUpdates": "true"}
    core |= {key.removeprefix("core."): value for key, value in repository.settings.items()}
    sections: list[tuple[str, str, Mapping[str, str]]] = [("core", "", core)]
    if sha256:
        sections.append(("extensions", "", {"objectFormat": "sha256"}))
    if repository.origin:
        fetch = "+refs/heads/*:refs/remotes/origin/*"
        sections.append(("remote", "origin", {"url": repository.origin, "fetch": fetch}))
        if repository.branch:
            merge = f"refs/heads/{repository.branch}"
            sections.append(("branch", repository.branch, {"remote": "origin", "merge": merge}))
    for other in everything:
        if (
            other.name
            and not other.nested
            and other is not repository
            and _parent(other, everything) is repository
        ):
            url = {"url": other.origin} if other.origin else {}
            sections.append(("submodule", other.name, {"active": "true", **url}))
    return sections


def _parent(child: Repository, everything: list[Repository]) -> Repository | None:
    around = [one for one in everything if not one.path or child.path.startswith(one.path + "/")]
    return max(around, key=lambda one: one.depth, default=None)
