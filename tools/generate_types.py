"""Generate src/pilothouse/client/types.py, the types of the REST API, from the OpenAPI document.

    python tools/generate_types.py            write it
    python tools/generate_types.py --check    exit 1 if the file is out of date

TypedDicts, since they cost nothing when the command line starts. An enum becomes ``str``: a newer server may send
values that this client does not know.
"""

from __future__ import annotations

import keyword
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pilothouse.server.document import openapi

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "src" / "pilothouse" / "client" / "types.py"
HEAD = '''"""Types of the REST API; made by tools/generate_types.py from the OpenAPI document, not to be edited.

The values are the server's complete JSON objects, with keys that a newer server adds.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict
'''
_SIMPLE = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}


def generated() -> str:
    """The file's text, formatted."""
    schemas = openapi()["components"]["schemas"]
    text = HEAD + "".join(declared(name, schemas[name]) for name in sorted(schemas))
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(FILE), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def declared(name: str, schema: dict[str, Any]) -> str:
    """A schema of the document as a type of this name."""
    if "properties" not in schema:
        return f"\n\n{name} = {type_of(schema)}\n"
    if any(keyword.iskeyword(key) for key in schema["properties"]):
        keys = ", ".join(f'"{key}": {kind}' for key, kind in _keys(schema))
        return f'\n\n{name} = TypedDict("{name}", {{{keys}}})\n'
    return f"\n\nclass {name}(TypedDict):\n" + "\n".join(_lines(schema)) + "\n"


def _lines(schema: dict[str, Any]) -> Iterator[str]:
    if documented := schema.get("description", ""):
        yield f'    """{documented}"""\n' if "\n" not in documented else _indented(documented)
    for key, kind in _keys(schema):
        yield f"    {key}: {kind}"


def _keys(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    required = set(schema.get("required", ()))
    for key, inner in schema["properties"].items():
        kind = type_of(inner)
        yield key, kind if key in required else f"NotRequired[{kind}]"


def _indented(text: str) -> str:
    return '    """' + text.replace("\n", "\n    ").replace("\n    \n", "\n\n") + '\n    """\n'


def type_of(schema: dict[str, Any]) -> str:
    """The annotation for a schema."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(type_of(each) for each in schema["anyOf"]))
    match schema.get("type"):
        case "array":
            return f"list[{type_of(schema.get('items', {}))}]"
        case "object":
            inner = schema.get("additionalProperties", True)
            return f"dict[str, {type_of(inner) if isinstance(inner, dict) else 'Any'}]"
        case str() as simple:
            return _SIMPLE[simple]
    return "Any"


def main() -> int:
    """Write or check the file."""
    text = generated()
    if "--check" not in sys.argv:
        FILE.write_text(text)
        return 0
    if FILE.read_text() == text:
        return 0
    print(f"{FILE.relative_to(ROOT)} is out of date: run python tools/generate_types.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
