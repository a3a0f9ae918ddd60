"""Results as JSON and YAML, safe to print on a terminal. Pure.

Characters that control a terminal (C1 controls, bidirectional overrides) are escaped as ``\\uXXXX``.
"""

from __future__ import annotations

from typing import Any

from pilothouse.cli.text import escaped, needs_quotes


def json(value: Any) -> str:
    """Indented JSON with a trailing newline."""
    import orjson

    try:
        return escaped(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()) + "\n"
    except TypeError:  # integers over 64 bits, lone surrogates, very deep nesting
        return _json(value, indent=2) + "\n"


def json_line(value: Any) -> str:
    """JSON on one line with a trailing newline."""
    import orjson

    try:
        return escaped(orjson.dumps(value).decode()) + "\n"
    except TypeError:
        return _json(value) + "\n"


def _json(value: Any, indent: int | None = None) -> str:
    import json

    separators = (",", ": ") if indent else (",", ":")
    return json.dumps(value, indent=indent, separators=separators).replace("\x7f", "\\u007f")


def yaml(value: Any) -> str:
    """Block style YAML."""
    from yaml import SafeDumper, ScalarNode, dump

    class Dumper(SafeDumper):
        """Quotes strings that need escapes; writes no anchors."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: SafeDumper, given: str) -> ScalarNode:
        shown = given.encode("utf-8", "backslashreplace").decode()
        style = '"' if needs_quotes(given) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", shown, style=style)

    Dumper.add_representer(str, text)
    Dumper.add_multi_representer(str, text)  # and their subclasses: enums and sizes
    Dumper.add_multi_representer(dict, SafeDumper.represent_dict)
    Dumper.add_multi_representer(int, lambda dumper, given: dumper.represent_int(int(given)))
    return escaped(dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120))
