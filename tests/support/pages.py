"""Reading the pages of the documentation: sections, tables, blocks of code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def section(page: str, heading: str) -> str:
    """What stands under one heading, its sub-headings included."""
    level = heading.split(" ")[0]
    parts = re.split(rf"^(?=#{{1,{len(level)}}} )", prose(DOCS / page), flags=re.MULTILINE)
    found = [part for part in parts if part.splitlines()[:1] == [heading]]
    assert len(found) == 1, f"{page} has {len(found)} headings {heading!r}"
    return found[0]


def rows(markdown: str, columns: int) -> list[list[str]]:
    """The rows of all tables of so many columns, heads aside, cell by cell."""
    cells = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    rules = [at for at, row in enumerate(cells) if set("".join(row)) <= {"-"}]
    heads = {at - 1 for at in rules} | set(rules)
    return [row for at, row in enumerate(cells) if at not in heads and len(row) == columns]


def quoted(cell: str) -> list[str]:
    """What a cell has in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def first_quoted(markdown: str, columns: int) -> list[str]:
    """The first column's backticked words."""
    return [word for row in rows(markdown, columns) for word in quoted(row[0])]


def blocks(info: str) -> list[Any]:
    """Blocks of code with this info string in all pages, as test parameters."""
    found = []
    for page, name in zip(PAGES, PAGE_IDS, strict=True):
        for number, code in enumerate(
            re.findall(rf"^```{info}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE), 1
        ):
            found.append(pytest.param(code, id=f"{name}:{number}"))
    return found


def listed_once(words: list[str]) -> set[str]:
    """The set of them; a list that says something twice is wrong somewhere."""
    assert len(words) == len(set(words)), sorted(word for word in words if words.count(word) > 1)
    return set(words)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
