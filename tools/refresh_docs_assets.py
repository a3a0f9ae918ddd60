"""The files of Swagger UI in the package: fetch them, or compare them with the recorded hashes.

python tools/refresh_docs_assets.py 5.35.0     takes that version with npm, from the registry npm is configured for
python tools/refresh_docs_assets.py --check
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "src/pilothouse/server/swagger_ui"
NAMES = (
    "LICENSE",
    "NOTICE",
    "favicon-32x32.png",
    "swagger-ui-bundle.js",
    "swagger-ui-bundle.js.LICENSE.txt",
    "swagger-ui.css",
)
README = """# Swagger UI {version}

Files of the npm package `swagger-ui-dist`, unchanged. `tools/refresh_docs_assets.py` writes and checks this folder.
Licence: Apache 2.0 (`LICENSE`, `NOTICE`). The licences of what the bundle contains are in its `.LICENSE.txt`.

| file | SHA-256 |
|---|---|
{rows}
"""


def main() -> int:
    """Returns the exit code."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    return check() if sys.argv[1] == "--check" else refresh(sys.argv[1])


def check() -> int:
    """Compare the files with the README's table."""
    listed = dict(
        re.findall(r"^\| `(.+)` \| `([0-9a-f]{64})` \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    )
    found = {path.name: digest(path) for path in FOLDER.iterdir() if path.name != "README.md"}
    wrong = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
    if wrong or set(found) != set(NAMES):
        print(f"{FOLDER} does not have the recorded files: {', '.join(wrong)}", file=sys.stderr)
        return 1
    return 0


def refresh(version: str) -> int:
    """Take the files of this version; npm compares the archive with the registry's hash."""
    with tempfile.TemporaryDirectory() as directory:
        pack = ["npm", "pack", "--silent", f"swagger-ui-dist@{version}"]
        subprocess.run(pack, cwd=directory, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(directory).glob("*.tgz")
        with tarfile.open(archive) as files:
            FOLDER.mkdir(exist_ok=True)
            for name in NAMES:
                content = files.extractfile(f"package/{name}")
                assert content is not None, f"{name} is no file of that version"
                (FOLDER / name).write_bytes(content.read())
    rows = "\n".join(f"| `{name}` | `{digest(FOLDER / name)}` |" for name in NAMES)
    (FOLDER / "README.md").write_text(README.format(version=version, rows=rows))
    return 0


def digest(path: Path) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
