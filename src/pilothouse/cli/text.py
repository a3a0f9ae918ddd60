"""Sanitizes untrusted text for terminals; formats times, durations and sizes. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

# CSI, OSC (and other string sequences) and two-character escapes, including those truncated by the line's end.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*(?:[@-~]|$)|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~]|$)|\x9b[0-?]*[ -/]*(?:[@-~]|$)"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
# Characters that terminals or editors interpret: C1 controls, line separators and bidirectional
# overrides. JSON and YAML do not escape these by default.
_ACTED_UPON = "\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_CONTROLS = re.compile(f"[\x00-\x08\x0a-\x1f{_ACTED_UPON}\ud800-\udfff]")
_ESCAPED = re.compile(f"[{_ACTED_UPON}\ufeff]")


def safe(text: str) -> str:
    """Remove escape sequences; show other control characters as visible symbols."""
    return _CONTROLS.sub(_visible, _ESCAPES.sub("", text))


def coloured(text: str) -> str:
    """Same as :func:`safe`, but keep sequences that only set color and weight."""
    parts: list[str] = []
    end = 0
    for escape in _ESCAPES.finditer(text):
        parts.append(_CONTROLS.sub(_visible, text[end : escape.start()]))
        if _COLOUR.fullmatch(escape[0]):
            parts.append(escape[0])
        end = escape.end()
    parts.append(_CONTROLS.sub(_visible, text[end:]))
    return "".join(parts)


def all_safe(lines: list[str]) -> list[str]:
    """:func:`safe` of each line; fast if there is nothing to replace."""
    whole = "".join(lines)
    return [safe(line) for line in lines] if _CONTROLS.search(whole) else lines


def escaped(text: str) -> str:
    """A JSON document or quoted YAML string with control characters escaped as ``\\uXXXX``."""
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def needs_quotes(text: str) -> bool:
    """Whether a YAML string must be quoted for :func:`escaped`."""
    return _ESCAPED.search(text) is not None


def _visible(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < 0x20:
        return chr(0x2400 + number)
    return "\u2421" if number == 0x7F else f"<U+{number:04X}>"


def span(seconds: float) -> str:
    """``3.1s``, ``2m05s``, ``1h02m``."""
    seconds = max(0.0, seconds)
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"


def size(count: int) -> str:
    """``812 B``, ``3.4 KiB``, ``12.0 MiB``."""
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1 << 20 else f"{count / (1 << 20):.1f} MiB"


def moment(text: str | None) -> float | None:
    """An RFC 3339 time as Unix seconds."""
    return datetime.fromisoformat(text).timestamp() if text else None


def ago(text: str | None, now: float) -> str:
    """``12s ago``, ``3d ago``; ``never``."""
    at = moment(text)
    if at is None:
        return "never"
    seconds = max(0, int(now - at))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


def local_time(seconds: float | None) -> str:
    """Unix seconds as ``2026-01-10 14:23:45Z``; empty for none."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if seconds else ""
