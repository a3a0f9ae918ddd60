"""The file that `PILOT_ENV` names: what is understood of it, its bounds, and how long it is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.agent.job_env import MAX_BYTES, MAX_NAMES, MAX_WARNINGS, JobEnvironments, Written, parse, read


def understood(text: str) -> Written:
    written = Written()
    parse(text, written)
    return written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("A=1\n", {"A": "1"}),
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=\n", {"A": ""}),
        ("A= b c \n\n  \n", {"A": " b c "}),
        ("A=b=c\n", {"A": "b=c"}),
        ("_a9=x\n", {"_a9": "x"}),
        ("A=x<<y\n", {"A": "x<<y"}),
        ('A="quoted" $HOME `x`\n', {"A": '"quoted" $HOME `x`'}),
        ("A<<EOF\none\ntwo\nEOF\nB=2\n", {"A": "one\ntwo", "B": "2"}),
        ("A<<EOF\nEOF\n", {"A": ""}),
        ("A<< EOF\nB=1\n\n EOF\nEOF\n", {"A": "B=1\n\n EOF"}),
        ("A<<E=F\nx\nE=F\n", {"A": "x"}),
        ("LD_LIBRARY_PATH=/opt\nPATH=/opt/bin\n", {"LD_LIBRARY_PATH": "/opt", "PATH": "/opt/bin"}),
        ("A=gr\u00fc\u00df dich\n", {"A": "gr\u00fc\u00df dich"}),
    ],
)
def test_what_is_understood(text: str, expected: dict[str, str]) -> None:
    assert understood(text) == Written(expected, [])


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("A", "line 2 is not NAME=value"),
        ("export A=1", "line 2 has no good name before its value"),
        ("=1", "line 2 has no good name before its value"),
        ("A-B=1", "line 2 has no good name before its value"),
        ("9A=1", "line 2 has no good name before its value"),
        (" A=1", "line 2 has no good name before its value"),
        ("A.b<<E\nx\nE", "line 2 has no good name before its value"),
        ("A=\0", "line 2 has a NUL character"),
        ("PILOT_JOB=x", "line 2: names that begin with PILOT_ are kept for the agent"),
        ("PILOT_<<E\nx\nE", "line 2: names that begin with PILOT_ are kept for the agent"),
        ("A<<", "line 2 is not NAME=value"),
    ],
)
def test_a_bad_line_is_one_warning_and_affects_no_other(line: str, warning: str) -> None:
    assert understood(f"GOOD=1\n{line}\nLAST=2\n") == Written({"GOOD": "1", "LAST": "2"}, [warning])


def test_an_end_that_never_comes() -> None:
    assert understood("GOOD=1\nA<<EOF\nB=2\n") == Written(
        {"GOOD": "1"}, ["line 2: the end of the value is missing"]
    )


def test_warnings_are_bounded() -> None:
    written = understood("bad\n" * 1000)
    assert len(written.warnings) == MAX_WARNINGS + 1
    assert written.warnings[-1] == "further lines are ignored"


@given(st.text(max_size=300))
def test_nothing_that_is_written_is_an_error(text: str) -> None:
    written = understood(text)
    assert all(name.isidentifier() and "\0" not in value for name, value in written.variables.items())


def test_a_file_over_its_bound_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("A=" + "x" * (MAX_BYTES - 3) + "\n")
    assert len(read(path).variables["A"]) == MAX_BYTES - 3
    path.write_text("A=" + "x" * (MAX_BYTES - 2) + "\n")
    assert read(path) == Written({}, [f"over {MAX_BYTES} bytes; the file is ignored"])


@pytest.mark.parametrize("what", ["gone", "link", "pipe", "directory", "device"])
def test_what_is_no_file_is_neither_followed_nor_waited_for(tmp_path: Path, what: str) -> None:
    path = tmp_path / "env"
    (tmp_path / "secret").write_text("A=1\n")
    match what:
        case "link":
            path.symlink_to(tmp_path / "secret")
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
    written = read(path)
    assert written.variables == {}
    assert written.warnings == ([] if what == "gone" else ["not a file"])


def test_bytes_that_are_no_text_are_kept(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"A=\xff\n")
    kept = JobEnvironments(tmp_path / "env")
    kept.add("w1", read(tmp_path / "f"))
    assert os.fsencode(kept.load("w1")["A"]) == b"\xff"


def test_what_is_kept_grows_and_goes(tmp_path: Path) -> None:
    kept = JobEnvironments(tmp_path / "env")
    kept.add("w1", understood("A=1\nB=2\n"))
    kept.add("w1", understood("A=3\nC=4\n"))
    kept.add("w2", understood("A=other\n"))
    again = JobEnvironments(tmp_path / "env")  # after a kill of the agent
    assert again.load("w1") == {"A": "3", "B": "2", "C": "4"}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "env").iterdir()} == {0o600}
    again.forget("w1")
    assert (again.load("w1"), again.load("w2")) == ({}, {"A": "other"})
    (tmp_path / "work" / "w3").mkdir(parents=True)
    again.add("w3", understood("A=1\n"))
    again.sweep(tmp_path / "work")
    assert (again.load("w2"), again.load("w3")) == ({}, {"A": "1"})


def test_the_bounds_are_those_of_the_job(tmp_path: Path) -> None:
    kept = JobEnvironments(tmp_path / "env")
    kept.add("w1", understood("".join(f"N{n}=x\n" for n in range(MAX_NAMES))))
    more = understood("N5=y\nONE_MORE=x\n")
    kept.add("w1", more)
    assert kept.load("w1")["N5"] == "y"
    assert len(kept.load("w1")) == MAX_NAMES
    assert more.warnings == [f"ONE_MORE is dropped: over {MAX_NAMES} names or {MAX_BYTES} bytes in this job"]
    for name in ("A", "B", "C"):
        kept.add("w2", understood(f"{name}=" + "x" * 30_000))
    assert set(kept.load("w2")) == {"A", "B"}
    kept.add("w2", understood("A=" + "y" * 35_000))
    assert kept.load("w2")["A"][0] == "y"


def test_a_damaged_file_is_none(tmp_path: Path) -> None:
    kept = JobEnvironments(tmp_path / "env")
    (tmp_path / "env" / "w1.json").write_text("{")
    assert kept.load("w1") == {}
