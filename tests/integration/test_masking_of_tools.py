"""Masking against what real tools print of a value: shells, encoders."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import subprocess
from urllib.parse import quote, quote_plus, urlencode

import pytest

from pilothouse.wire.masking import Masker

# The letters of the values stand nowhere else in what is printed.
LETTERS = "QZÄ€"
ALPHABET = LETTERS + "'\"\\$` ~#!*?[]{}()|&;<>,^=:%@+-_./\t\x1b\x01\x7f"
SHELLS = {
    "bash -x": [
        "bash",
        "-xc",
        ': "$S"; : "1${S}2"; x="$S"; y="a$S"; [[ "$S" == "$S" ]]; for i in "$S"; do :; done',
    ],
    "sh -x": ["sh", "-xc", ': "$S"; : "1${S}2"; x="$S"; y="a$S"; for i in "$S"; do :; done'],
    "printf %q": ["bash", "-c", 'printf "%q " "$S" "1${S}2" "x y$S"; echo "${S@Q}"'],
    "bash declare": ["bash", "-c", 'declare -p S; export -p; set; t=("$S"); declare -p t'],
    "sh set": ["sh", "-c", "export -p; set"],
    "bash trap": ["bash", "-c", 'alias x="$S"; alias; trap -- "$S" USR1; trap'],
}
LONG = "".join(random.Random(7).choices("abcdefghijklmnopqrstuvwxyz0123456789+/ ", k=400)).strip() + "!"


def printed(command: list[str], value: str, locale: str = "C.UTF-8", stdin: bytes = b"") -> str:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": locale, "S": value}
    done = subprocess.run(command, env=environment, input=stdin, capture_output=True, check=True)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    # Signals may be ignored by the tests' parent, which `trap` shows.
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith("trap -- '' SIG"))


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
@pytest.mark.parametrize("shell", SHELLS)
def test_what_shells_print(shell: str, locale: str) -> None:
    chance = random.Random(shell + locale)
    for _ in range(60):
        value = "".join(chance.choices(ALPHABET, k=12)).strip()
        if not set(value) & set(LETTERS):
            continue
        output = printed(SHELLS[shell], value, locale)
        shown = Masker([value]).mask(output)
        assert not set(shown) & set(LETTERS), f"{value!r}\n{output}\n{shown}"
        assert not re.search(r"\\[0-7]{3}\\[0-7]{3}", shown), f"bytes of {value!r} in octal\n{shown}"


@pytest.mark.parametrize("shell", SHELLS)
def test_what_shells_print_of_several_lines(shell: str) -> None:
    for value in ("QZQZ it's\n\tZZ Q\"$Z\nQ'Q", "ZQZQ'\n'ZQZQ", "Q Z Q Z\nZ~Q=~Z\r\nlast: ~Q"):
        output = printed(SHELLS[shell], value).replace("\r\n", "\n")
        shown = Masker([value]).mask(output)
        assert not set(shown) & set(LETTERS), f"{value!r}\n{output}\n{shown}"


@pytest.mark.parametrize("value", ["QZ hunter2/Zebra+9", LONG, LONG[:57], LONG[:58], "Ä€" * 40])
@pytest.mark.parametrize(
    "command",
    [
        ["base64"],
        ["base64", "-w0"],
        ["openssl", "base64"],
        ["openssl", "base64", "-A"],
        ["xxd", "-p"],
        ["xxd", "-p", "-u"],
        ["xxd", "-p", "-c0"],
        ["jq", "-R", "@uri"],
        ["jq", "-R", "@base64"],
        ["jq", "-R", "."],
        ["jq", "-Ra", "."],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_what_encoders_print(command: list[str], value: str, end: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} on this machine")
    output = printed(command, "", stdin=(value + end).encode())
    rows = Masker([value]).mask(output).splitlines()
    assert rows, "something was printed"
    # What the byte behind the value has a part in may be left.
    # Left may be what encodes the line break, alone or with one or two bytes of the value.
    assert all(re.fullmatch(r"\"?\*\*\*.{0,4}\"?|.{4}", row) for row in rows), rows


@pytest.mark.parametrize("value", ["p&ss w/rd=é~(1)*!'", "100% sure\nof it", LONG])
def test_what_python_prints(value: str) -> None:
    masker = Masker([value])
    for text in (
        quote(value),
        quote(value, safe=""),
        quote(value, safe="!'()*~"),
        quote_plus(value),
        urlencode({"": value}).removeprefix("="),
        quote(value).lower() if value.islower() else quote(value),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        value.encode().hex(),
        value.encode().hex().upper(),
    ):
        assert masker.mask(f"<{text}>") == "<***>", text
    for row in base64.encodebytes(value.encode()).decode().splitlines():
        assert masker.mask(row) == "***"
    basic = base64.b64encode(f"user:{value}".encode()).decode()
    assert len(masker.mask(basic)) <= len("***") + 10
