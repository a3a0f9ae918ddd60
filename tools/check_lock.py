"""Check that the lock files pin every direct dependency with hashes and contain no registry URL."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def problems() -> list[str]:
    """Error messages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    wanted = {"run": groups["build"], "dev": groups["dev"]}
    found = []
    for name, extra in wanted.items():
        text = (ROOT / f"requirements/{name}.lock").read_text()
        pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE))
        direct = [
            re.split(r"[\[<>=~!; ]", line)[0].lower() for line in project["project"]["dependencies"] + extra
        ]
        found += [f"{name}.lock does not pin {package}" for package in direct if package not in pinned]
        blocks = re.split(r"\n(?=[A-Za-z0-9])", text)
        found += [
            f"{name}.lock has no hash for {b.split()[0]}" for b in blocks if "==" in b and "--hash" not in b
        ]
        if "://" in text or "index-url" in text:
            found.append(f"{name}.lock names a registry's address")
    return found + others()


def others() -> list[str]:
    """The same for the lock files of tools, and of clients that tests generate."""
    found = []
    for name in ("conformance", "mutants"):
        python = (ROOT / f"requirements/{name}.lock").read_text()
        if python.count("==") - python.count("== '") > python.count(" \\\n    --hash") or "://" in python:
            found.append(f"{name}.lock lacks hashes, or names a registry's address")
    lock = json.loads((ROOT / "tests/conformance/typescript/package-lock.json").read_text())
    for name, package in lock["packages"].items():
        if name and ("integrity" not in package or "resolved" in package):
            found.append(f"package-lock.json: {name} has no hash, or an address")
    return found


if __name__ == "__main__":
    complaints = problems()
    print("\n".join(complaints) or "lock files are complete")
    sys.exit(bool(complaints))
