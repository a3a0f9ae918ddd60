"""Generate src/pilothouse/wire from proto/.

    python tools/generate_wire.py            write the generated code
    python tools/generate_wire.py --check    exit 1 if the code is out of date

The protos import each other as `agent/v1/agent.proto` and must be registered with these names: server
reflection and clients generated from the published definitions use them. protoc derives the
Python imports from these names, so they are rewritten to `pilothouse.wire`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
WIRE = ROOT / "src" / "pilothouse" / "wire"
PACKAGE = "pilothouse.wire"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")

Files = dict[str, str]  # path relative to the wire package, with slashes -> text


class GenerationError(Exception):
    """protoc failed; the message is its output."""

    code = "PROTOC_FAILED"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Generate src/pilothouse/wire from proto/.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 on a difference")
    parser.add_argument("--out", type=Path, default=WIRE, help="the wire package (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        wanted = generate()
    except GenerationError as error:
        print(error, file=sys.stderr)
        return 1
    differences = compare(wanted, options.out)
    if options.check:
        return report(differences)
    write(wanted, options.out, differences)
    print(f"{len(wanted)} files up to date, {len(differences)} of them changed or removed")
    return 0


def generate() -> Files:
    """The text of all generated files, by path."""
    sources = sorted(path.relative_to(PROTO).as_posix() for path in PROTO.rglob("*.proto"))
    with_services = [source for source in sources if declares_service(PROTO / source)]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        protoc(f"--python_out={out}", f"--mypy_out=quiet:{out}", *sources)
        protoc(f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet,only_async:{out}", *with_services)
        made = {path.relative_to(out).as_posix(): path.read_text("utf-8") for path in out.rglob("*.py*")}
    roots = sorted({source.split("/")[0] for source in sources})
    return {name: relocate(text, roots) for name, text in made.items()} | package_markers(sources)


def declares_service(proto: Path) -> bool:
    # Without a service protoc would write an empty gRPC module.
    return re.search(r"(?m)^service \w+", proto.read_text("utf-8")) is not None


def protoc(*arguments: str) -> None:
    scripts = Path(sysconfig.get_path("scripts"))
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *plugins, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise GenerationError(result.stderr.strip())


def relocate(text: str, roots: list[str]) -> str:
    """Move the imports of generated modules to PACKAGE; protobuf names and file names stay."""
    ours = "|".join(roots)
    text = re.sub(rf"(?m)^from ((?:{ours})\.[\w.]*) import ", rf"from {PACKAGE}.\1 import ", text)
    # __module__ of messages, used by pickle and tracebacks.
    return re.sub(rf"'((?:{ours})\.[\w.]*_pb2)'", rf"'{PACKAGE}.\1'", text)


def package_markers(sources: list[str]) -> Files:
    folders = {parent.as_posix() for source in sources for parent in Path(source).parents} - {"."}
    return {f"{folder}/__init__.py": f'"""Generated from proto/{folder}."""\n' for folder in folders}


def compare(wanted: Files, wire: Path) -> Files:
    """Differences by file: 'missing', 'differs' or 'stale'."""
    differences: Files = {}
    for name, text in wanted.items():
        path = wire / name
        if not path.is_file():
            differences[name] = "missing"
        elif path.read_text("utf-8") != text:
            differences[name] = "differs"
    for pattern in GENERATED:
        present = (path.relative_to(wire).as_posix() for path in wire.rglob(pattern))
        differences |= {name: "stale" for name in present if name not in wanted}
    return differences


def report(differences: Files) -> int:
    if not differences:
        return 0
    print("the generated wire code does not match proto/:", file=sys.stderr)
    for name, fault in sorted(differences.items()):
        print(f"  {fault:8} {name}", file=sys.stderr)
    print("run: python tools/generate_wire.py (with the locked development tools)", file=sys.stderr)
    return 1


def write(wanted: Files, wire: Path, differences: Files) -> None:
    for name, fault in differences.items():
        path = wire / name
        if fault == "stale":
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[name], "utf-8")


if __name__ == "__main__":
    sys.exit(main())
