"""What built-in actions do with files: patterns, zips, reports; without a server."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.agent.workfiles.dotenv import BadDotenv, parse
from pilothouse.agent.workfiles.junit import MAX_DEPTH, BadReport, Cases, read_file, summarized
from pilothouse.agent.workfiles.pack import pack
from pilothouse.agent.workfiles.walk import Search, matcher
from pilothouse.blobs.sending import BadRange, read_range
from pilothouse.engine.artifacts.model import good_name
from pilothouse.wire.placing import Refused, place
from pilothouse.wire.test_reports import ReportRefused, read_report

JUNIT = Path("/work/shared/data/junit")


def tree(root: Path, *paths: str) -> int:
    """Files below a directory, which is opened."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY)


def found(root: int, *patterns: str, hidden: bool = False) -> list[str]:
    return [each.path for each in Search(root, 100, hidden).find(list(patterns))]


def test_patterns(tmp_path: Path) -> None:
    root = tree(tmp_path, "a.txt", "d/b.txt", "d/e/c.log", "d/.env", "d/.git/x", "f[1].txt", "d2/b.txt")
    assert found(root, "d") == ["d/b.txt", "d/e/c.log"]
    assert found(root, "d/") == found(root, "./d") == found(root, "d/**") == ["d/b.txt", "d/e/c.log"]
    assert found(root, "*.txt") == ["a.txt", "f[1].txt"]
    assert found(root, "**/*.txt") == ["a.txt", "d/b.txt", "d2/b.txt", "f[1].txt"]
    assert found(root, "d?/b.txt") == ["d2/b.txt"]
    assert found(root, "[a-c].txt") == ["a.txt"]
    assert found(root, "[!a].txt") == []
    assert found(root, "d", "!**/*.log") == ["d/b.txt"]
    assert found(root, "d/.env") == ["d/.env"]
    assert found(root, "d", hidden=True) == ["d/.env", "d/.git/x", "d/b.txt", "d/e/c.log"]
    assert found(root, "**") == ["a.txt", "d/b.txt", "d/e/c.log", "d2/b.txt", "f[1].txt"]
    assert found(root, "nothing/**") == []


@pytest.mark.parametrize("pattern", ["../x", "/etc/passwd", "a/../../x", "a\0b", "x" * 1001])
def test_patterns_that_leave(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(Refused):
        found(tree(tmp_path, "a"), pattern)


@given(st.text("ab*?[]!/.-\\&~|^", max_size=20))
def test_any_pattern_can_be_matched(pattern: str) -> None:
    matcher(pattern).fullmatch("a/b")


def test_links_and_pipes_are_left_out(tmp_path: Path) -> None:
    root = tree(tmp_path / "w", "real/x")
    tree(tmp_path, "secret")
    (tmp_path / "w/link").symlink_to(tmp_path / "secret")
    (tmp_path / "w/up").symlink_to("..")
    (tmp_path / "w/alias").symlink_to("real")
    os.mkfifo(tmp_path / "w/pipe")
    search = Search(root, 100)
    assert [each.path for each in search.find(["**"])] == ["real/x"]
    assert len(search.notes) == 4
    for pattern in ("up/secret", "alias/x", "alias/**", "link", "pipe"):
        assert found(root, pattern) == [], pattern


def packed(root: int, *patterns: str, **job: Any) -> tuple[dict[str, Any], bytes]:
    out = io.BytesIO()
    given = {"hidden": False, "archive": True, "level": 6, "max_files": 100, "max_bytes": 1000}
    answer = pack({**given, "patterns": list(patterns), **job}, root, out)
    return answer, out.getvalue()


def test_a_zip_and_back(tmp_path: Path) -> None:
    root = tree(tmp_path / "w", "dist/a", "dist/sub/run", "other/b")
    (tmp_path / "w/dist/sub/run").chmod(0o755)
    answer, data = packed(root, "dist/**")
    assert answer == {"files": 2, "unpacked": 18, "file_name": "", "notes": []}
    assert zipfile.ZipFile(io.BytesIO(data)).namelist() == ["a", "sub/run"]
    _, both = packed(root, "dist", "other/b")
    assert zipfile.ZipFile(io.BytesIO(both)).namelist() == ["dist/a", "dist/sub/run", "other/b"]
    target = tree(tmp_path / "t", "in/a")
    job = {"path": "in", "file_name": "", "max_files": 10, "max_bytes": 100}
    assert place(job, target, io.BytesIO(data)) == {"files": 2, "bytes": answer["unpacked"]}
    assert (tmp_path / "t/in/a").read_text() == "dist/a"
    assert stat.S_IMODE((tmp_path / "t/in/sub/run").stat().st_mode) & 0o100


def test_bounds_of_packing(tmp_path: Path) -> None:
    root = tree(tmp_path, "a", "b")
    os.truncate(tmp_path / "b", 1 << 40)
    with pytest.raises(Refused, match="bytes together"):
        packed(root, "b")
    with pytest.raises(Refused, match="more than 1 files"):
        packed(root, "*", max_files=1)
    with pytest.raises(Refused, match="one file"):
        packed(root, "*", archive=False, max_bytes=1 << 50)
    assert packed(root, "none") == ({"files": 0, "notes": []}, b"")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "link/x", "a/" * 101 + "x"])
def test_a_hostile_zip_writes_nothing_elsewhere(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tree(tmp_path / "t", "a")
    (tmp_path / "t/link").symlink_to(outside)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(Refused):
        place({"path": "", "file_name": "", "max_files": 10, "max_bytes": 100}, target, data)
    assert list(outside.iterdir()) == []


def test_a_zip_bomb_and_a_link_in_the_way(tmp_path: Path) -> None:
    target = tree(tmp_path / "t", "kept")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "t/x").symlink_to(outside)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(1000))
    job = {"path": "", "file_name": "", "max_files": 10, "max_bytes": 1000}
    assert place(job, target, data)["bytes"] == 1000
    assert outside.read_text() == "mine"
    with pytest.raises(Refused, match="larger"):
        place({**job, "max_bytes": 999}, target, data)
    with pytest.raises(Refused, match="unpacked"):
        place(job, target, io.BytesIO(b"no zip"))


def counted(data: bytes) -> dict[str, Any]:
    cases = Cases()
    read_file(io.BytesIO(data), cases)
    return summarized(cases, 1, [])


REPORTS = sorted(JUNIT.glob("*.xml*")) if JUNIT.is_dir() else []


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.name)
def test_real_reports_are_read_or_refused(path: Path) -> None:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        report = counted(data)
    except BadReport as bad:
        assert str(bad).startswith("it ")
        return
    assert report["tests"] == sum(report[key] for key in ("passed", "failed", "errors", "skipped"))
    expected = JUNIT / "expected" / path.name.replace(".xml", ".results.json")
    # This one has no test cases, only numbers in attributes.
    if expected.exists() and "no-cases-but-tests" not in path.name:
        stats = json.loads(expected.read_text())["stats"]
        names = {"tests": "tests", "passed": "tests_succ", "failed": "tests_fail", "errors": "tests_error"}
        assert {key: report[key] for key in names} == {key: stats[name] for key, name in names.items()}


CASE = '<testcase classname="c" name="n">{}</testcase>'


@pytest.mark.parametrize(
    ("inside", "counts", "flaky"),
    [
        ([""], (1, 0, 0), 0),
        (["<failure/>", ""], (1, 0, 0), 1),
        (["", "<failure/>"], (0, 1, 0), 0),
        (["<flakyFailure message='x'/>"], (1, 0, 0), 1),
        (["<failure/><rerunFailure/>"], (0, 1, 0), 0),
        (["<error/><failure/>"], (0, 0, 1), 0),
        (["<skipped/>"], (0, 0, 0), 0),
        (["", ""], (2, 0, 0), 0),
    ],
)
def test_cases(inside: list[str], counts: tuple[int, int, int], flaky: int) -> None:
    report = counted(f"<testsuite>{''.join(map(CASE.format, inside))}</testsuite>".encode())
    assert (report["passed"], report["failed"], report["errors"]) == counts
    assert len(report["flaky"]) == flaky


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "text",
    [
        f'<!DOCTYPE l [<!ENTITY l0 "lol">{LAUGHS}]><testsuite name="&l9;"/>',
        '<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]><testsuite>&x;</testsuite>',
        '<!DOCTYPE l [<!ENTITY % p SYSTEM "http://127.0.0.1:1/x">%p;]><testsuite/>',
        "<testsuite>" * (MAX_DEPTH + 1),
        "<testsuite " + " ".join(f'a{n}="x"' for n in range(200)) + "/>",
        "<testsuite><testcase",
        "<other/>",
        "",
        "\0\0\0",
    ],
)
def test_hostile_reports(text: str) -> None:
    with pytest.raises(BadReport):
        counted(text.encode())


def test_a_huge_attribute_and_a_huge_text() -> None:
    big = "x" * (4 << 20)
    report = counted(f'<testsuite name="{big}">{CASE.format(f"<failure message={big!r}>{big}</failure>")}'
                     "</testsuite>".encode())  # fmt: skip
    [test] = report["failing"]
    assert max(map(len, (test["suite"], test["message"], test["details"]))) <= 2000


@given(st.binary(max_size=300))
def test_any_bytes_are_a_report_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadReport):
        counted(b"<testsuite>" + data)


def test_a_reports_form_is_checked() -> None:
    good = {"tests": 1, "passed": 0, "failed": 1, "failing": [{"name": "n", "message": "m"}]}
    assert read_report(json.dumps(good))["failing"][0]["kind"] == "failed"
    for bad in (
        {"tests": -1},
        {"tests": "1"},
        {"tests": 10**10},
        {"failing": {}},
        {"failing": [1]},
        {"failing": [{"name": 1}]},
        {"failing": [{}] * 501},
        {"problems": ["x"] * 21},
        {"passed_ids": "AAAA"},
        {"passed_ids": "?"},
        {"duration": "1"},
    ):
        with pytest.raises(ReportRefused):
            read_report(json.dumps(bad))
    for text in ("[]", "{", "[" * 100_000, "x" * (3 << 20) + "x"):
        with pytest.raises(ReportRefused):
            read_report(text)


def test_dotenv() -> None:
    good = b"A=1\nB=a=b&c\nEMPTY=\nA=2\n\n"
    assert parse(good) == {"A": "2", "B": "a=b&c", "EMPTY": ""}
    assert parse(b'QUOTED="a b"\r\nREF=${X}') == {"QUOTED": '"a b"', "REF": "${X}"}
    for bad in (b"# no", b"NOEQUALS", b"BAD-KEY=1", b"1A=1", b'M="a\nb"', b"U=\xe9", b"X=" + b"x" * 5200):
        with pytest.raises(BadDotenv):
            parse(bad)


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_ranges(size: int, first: int, last: int) -> None:
    data = bytes(range(size))
    try:
        found = read_range(f"bytes={first}-{last}", size)
    except BadRange:
        assert first >= size
        return
    if last < first:
        assert found is None
    else:
        assert found is not None
        assert data[found[0] : found[1]] == data[first : last + 1] != b""


def test_names() -> None:
    assert all(map(good_name, ("dist", "a b", "ü-1.zip", ".hidden")))
    assert not any(map(good_name, ("", " ", ".", "..", "a/b", "a\\b", " a", "a ", "a\nb", "a?")))
