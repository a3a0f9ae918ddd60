"""Rust: the package or workspace that is here."""

from __future__ import annotations

from pathlib import Path

from pilothouse.cli.starters.job import Job, Step, first_of


def find(directory: Path) -> Job | None:
    """The job of a package; None where there is none."""
    if not first_of(directory, "Cargo.toml"):
        return None
    locked = " --locked" if first_of(directory, "Cargo.lock") else ""
    steps = [
        Step("build", f"cargo build --all-targets{locked}"),
        Step("test", f"cargo test{locked}"),
    ]
    if first_of(directory, "rustfmt.toml", ".rustfmt.toml"):
        steps.insert(0, Step("format", "cargo fmt --check"))
    if first_of(directory, "clippy.toml", ".clippy.toml"):
        steps.append(Step("lint", f"cargo clippy --all-targets{locked} -- -D warnings"))
    return Job("rust", "Cargo.toml", tuple(steps))
