"""Go: the module that is here."""

from __future__ import annotations

from pathlib import Path

from pilothouse.cli.starters.job import Job, Step, first_of


def find(directory: Path) -> Job | None:
    """The job of a module; None where there is none."""
    if not first_of(directory, "go.mod"):
        return None
    steps = (
        Step("vet", "go vet ./..."),
        Step("build", "go build -o /dev/null ./..."),
        Step("test", "go test ./..."),
    )
    return Job("go", "go.mod", steps)
