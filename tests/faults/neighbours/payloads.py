"""What the attacks send: small in the sender's hand, large in the receiver's."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from functools import cache
from typing import Any

import zstandard

MIB = 1 << 20
NOWHERE = {"agentSelector": {"matchLabels": {"only": "nobody"}}}

WAITING = "{name: first, run: 'true', agentSelector: {matchLabels: {only: nobody}}}"
"""The first step of a job: no agent takes it, so those behind it wait."""


def job(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A spec of one job."""
    return {"jobs": [{"name": "j", "steps": list(steps), **more}]}


def step(name: str = "s", **more: Any) -> dict[str, Any]:
    """A step that no agent takes."""
    return {"name": name, "uses": "shell", "args": {"command": "true"}, **NOWHERE, **more}


@cache
def heavy_spec(jobs: int = 100) -> str:
    """Of 100 jobs: 0.9 MB, as many steps and expressions as a legal spec may have."""
    lines = ["jobs:\n"]
    for number in range(jobs):
        lines.append(f"  - name: job-{number}\n    steps:\n      - {WAITING}\n")
        for at in range(48):
            expression = f"size(variables.A) > {number} && variables.B == 'x{at}'"
            lines.append(f"      - name: step-{at}\n        run: 'echo {'x' * 50}'\n")
            lines.append(f'        env: {{A: "${{{{ {expression} }}}}", B: "{"y" * 20}"}}\n')
    return "".join(lines)


@cache
def costly_spec() -> str:
    """Conditions that are evaluated while the run moves on, each as heavy as an expression may be."""
    wide = " + ".join(["variables.A"] * 20)
    lines = ["variables: {A: '" + "x" * 3000 + "'}\njobs:\n"]
    for number in range(400):
        lines.append(
            f"  - name: job-{number}\n    when: \"size({wide}) > {number} && ({wide}).contains('y')\"\n"
        )
        lines.append(f"    steps: [{WAITING}]\n")
    return "".join(lines)


@cache
def bombs() -> tuple[str, ...]:
    """Specs that grow when they are read: aliases, nesting, patterns, expressions."""
    alias = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    pattern = "(" * 200 + "a*" + ")*" * 200
    deep = "(" * 2000 + "true" + ")" * 2000
    ors = " || ".join(f"'{'a' * 20}'.matches('(a+)+{n}$')" for n in range(60))
    listed = "[" * 60 + "1" + "]" * 60
    return (
        alias + "jobs: *a8\n",
        "jobs: " + "[" * 100_000,
        "jobs: " + "{a: " * 20_000,
        "? " * 50_000,
        "jobs: &a [*a]",
        json.dumps(job(step(when=f"'aaaa'.matches('{pattern}')"))),
        json.dumps(job(step(when=deep))),
        json.dumps(job(step(when=ors))),
        json.dumps(job(step(when=f"size({listed}) > 0"))),
        json.dumps(
            job(*(step(f"s{n}", when="'a'.matches('" + f"(x{n}|y){{1000}}" * 5 + "')") for n in range(300)))
        ),
        "jobs: !!python/object/apply:os.system [true]",
        "jobs:\n" + "  - {name: j, dependsOn: [j]}\n" * 20_000,
    )


@cache
def deep_json(depth: int = 100_000) -> bytes:
    """So many lists within each other."""
    return b'{"spec": ' + b"[" * depth + b"]" * depth + b"}"


@cache
def wide_json() -> bytes:
    """As many keys as a MB holds."""
    return ("{" + ",".join(f'"k{n}":0' for n in range(70_000)) + "}").encode()


@cache
def many_steps(count: int = 5000) -> dict[str, Any]:
    """A run of as many steps as there may be, in jobs that depend on each other."""
    jobs = []
    for number in range(count // 50):
        needs = {"dependsOn": [f"j{number - 1}"]} if number else {}
        steps = [step("first"), *({"name": f"s{n}", "run": "true"} for n in range(49))]
        jobs.append({"name": f"j{number}", "steps": steps, **needs})
    return {"jobs": jobs}


@cache
def short_lines(count: int = 1000, size: int = 64 << 10) -> str:
    """A secret of so many distinct lines."""
    width = size // count - 1
    return "\n".join(f"{n:x}".rjust(max(4, width), "k")[-max(4, width) :] for n in range(count))[:size]


@cache
def empty_frames(size: int = 8 * MIB) -> bytes:
    """zstd frames of nothing, so many bytes of them."""
    frame = zstandard.ZstdCompressor().compress(b"")
    return frame * (size // len(frame))


@cache
def empty_members(size: int = 4 * MIB) -> bytes:
    """The same of gzip."""
    member = gzip.compress(b"")
    return member * (size // len(member))


@cache
def newlines(kind: str = "zstd") -> bytes:
    """Some hundred bytes that unpack to 8 million empty lines."""
    raw = b"\n" * (8 * MIB - 1)
    return zstandard.ZstdCompressor(level=19).compress(raw) if kind == "zstd" else gzip.compress(raw, 9)


@cache
def beyond() -> bytes:
    """Unpacks to far more than is allowed."""
    return zstandard.ZstdCompressor(level=3).compress(bytes(512 * MIB))


@cache
def noise(size: int) -> bytes:
    """Bytes that do not compress."""
    return os.urandom(size)


@cache
def pack_bomb(size: int = 256 * MIB) -> bytes:
    """A git pack that claims one object of so many zero bytes."""

    head, left = bytearray(), size >> 4
    head.append((3 << 4) | (size & 15) | 0x80)
    while left > 127:
        head.append((left & 127) | 0x80)
        left >>= 7
    head.append(left)
    body = (
        b"PACK"
        + (2).to_bytes(4, "big")
        + (1).to_bytes(4, "big")
        + bytes(head)
        + zlib.compress(bytes(size), 9)
    )
    return body + hashlib.sha1(body).digest()


UNKNOWN = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a"


@cache
def large_message() -> bytes:
    """A protobuf message of nearly 16 MiB: one text field of every message that has a field 1 of that kind."""
    size = 16 * MIB - 64
    length, left = bytearray(), size
    while left > 127:
        length.append((left & 127) | 0x80)
        left >>= 7
    length.append(left)
    return b"\x0a" + bytes(length) + b"x" * size
