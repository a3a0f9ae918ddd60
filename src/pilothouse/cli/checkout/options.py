"""How much of a repository is sent: the spec's ``checkout``, and the limit on bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilothouse.cli.sizes import size_of

DEFAULT_LIMIT = 256 << 20
UNPACKED = 8
"""Unpacked, a checkout may have so many times the bytes that may be sent."""

_MAX_SPEC = 1 << 20


@dataclass(frozen=True, slots=True)
class CheckoutOptions:
    """decisions.md, ``checkout`` of a spec. ``depth``: commits of history, 0 for all.

    Files of LFS travel as they stand in the work tree, whatever ``lfs`` says: nothing else can be read here.
    """

    depth: int = 1
    tags: bool = False
    submodules: bool = False
    lfs: bool = False


def options_of(spec: str) -> CheckoutOptions:
    """What a spec's text asks for. The defaults wherever there is any doubt: the server checks the spec."""
    import yaml

    if "checkout" not in spec or len(spec) > _MAX_SPEC:
        return CheckoutOptions()
    try:
        document = yaml.load(spec, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 (safe)
    except (yaml.YAMLError, ValueError, RecursionError):
        return CheckoutOptions()
    asked = document.get("checkout") if isinstance(document, dict) else None
    return _options(asked) if isinstance(asked, dict) else CheckoutOptions()


def sent_limit(environment: Mapping[str, str] = os.environ) -> int:
    """Bytes that may be sent: ``PILOT_MAX_CHECKOUT``, as ``512MiB`` or a number of bytes. Raises UsageError."""
    text = environment.get("PILOT_MAX_CHECKOUT", "").strip()
    if not text:
        return DEFAULT_LIMIT
    return size_of(text, "PILOT_MAX_CHECKOUT=")


def _options(asked: dict[Any, Any]) -> CheckoutOptions:
    depth = asked.get("depth")
    whole = isinstance(depth, int) and not isinstance(depth, bool) and 0 <= depth < 1 << 31
    return CheckoutOptions(
        depth=depth if whole and depth is not None else 1,
        tags=asked.get("tags") is True,
        submodules=asked.get("submodules") is True,
        lfs=asked.get("lfs") is True,
    )
