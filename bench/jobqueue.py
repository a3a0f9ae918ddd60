"""Reference of no-op steps: procrastinate on a local PostgreSQL, in a temporary environment.

Its jobs do nothing; twenty are queued per transaction, as in a run with twenty steps, and one worker runs
them, as one agent does. The database is durable in both cases.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.common import SERVER_CORE, Lab

JOBS = 2000
CONCURRENCY = 64
PROGRAM = """
import asyncio, sys, time
import procrastinate

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=sys.argv[1]))

@app.task(queue="bench")
async def nothing():
    pass

async def main():
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for count in (100, int(sys.argv[2])):
            began = time.monotonic()
            for _ in range(count // 20):
                await nothing.batch_defer_async(*[{}] * 20)
            await app.run_worker_async(queues=["bench"], concurrency=int(sys.argv[3]), wait=False)
            seconds = time.monotonic() - began
        print(count / seconds)

asyncio.run(main())
"""


def rate(lab: Lab, directory: Path) -> float:
    """Jobs per second of wall time, deferred and completed, on the PostgreSQL in that directory.

    Raises :class:`OSError` or :class:`subprocess.SubprocessError` if it is not available.
    """
    python = _environment(lab.directory / "procrastinate", "procrastinate[psycopg]", "psycopg[binary]")
    where = f"host={directory} user={_user()} dbname=postgres"
    command = [python, "-c", PROGRAM, where, str(JOBS), str(CONCURRENCY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return float(done.stdout.split()[-1])


def url(directory: Path) -> str:
    """The server's database URL: another database on the same PostgreSQL."""
    return f"postgresql+psycopg://{_user()}@/pilothouse?host={directory}"


def _user() -> str:
    return "postgres" if os.getuid() == 0 else getpass.getuser()


def _environment(directory: Path, *packages: str) -> str:
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    python = str(directory / "bin" / "python")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return python


@contextlib.contextmanager
def postgres(directory: Path) -> Iterator[Path]:
    """A temporary cluster with a socket in its directory. PostgreSQL refuses to run as root."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(shutil.which("initdb") or "").parent]
    tools = found[-1]
    if not (tools / "initdb").exists():
        raise FileNotFoundError("there is no PostgreSQL server on this machine")
    directory.mkdir()
    user = _user()
    become: dict[str, object] = {}
    if os.getuid() == 0:
        account = pwd.getpwnam(user)
        os.chown(directory, account.pw_uid, account.pw_gid)
        directory.parent.chmod(0o755)
        become = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = directory / "data"
    setup = [str(tools / "initdb"), "-D", str(data), "-A", "trust", "-U", user]
    subprocess.run(setup, check=True, capture_output=True, text=True, **become)  # type: ignore[call-overload]
    options = ["-D", str(data), "-k", str(directory), "-c", "listen_addresses="]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(  # type: ignore[call-overload]
            ["taskset", "-c", str(SERVER_CORE), str(tools / "postgres"), *options],
            stdout=log,
            stderr=log,
            **become,
        )
    try:
        wait = [str(tools / "pg_isready"), "-h", str(directory), "-t", "1"]
        while server.poll() is None and subprocess.run(wait, capture_output=True, check=False).returncode:
            pass
        subprocess.run([str(tools / "createdb"), "-h", str(directory), "-U", user, "pilothouse"], check=True)
        yield directory
    finally:
        server.terminate()
        server.wait(20)
