"""Long reads leave no memory behind on the connections that made them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from sqlalchemy import text

from pilothouse.server.memory import resident
from pilothouse.storage import Database
from pilothouse.storage.database import READ_CONNECTIONS

MIB = 1 << 20


def test_long_reads_of_every_connection(tmp_path: Path) -> None:
    database = Database.at(tmp_path / "db")
    with database.write_engine.begin() as conn:
        conn.execute(text("CREATE TABLE much (id INTEGER PRIMARY KEY, data BLOB)"))
        many = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 32768) "
        conn.execute(text(f"{many} INSERT INTO much SELECT i, zeroblob(2000) FROM n"))  # 64 MiB
    together = Barrier(READ_CONNECTIONS)

    def read() -> None:
        with database.read() as conn:
            together.wait(60)
            conn.execute(text("SELECT count(*) FROM much WHERE substr(data, 1000, 1) = 'x'")).scalar_one()

    before = resident()
    with ThreadPoolExecutor(READ_CONNECTIONS) as threads:
        for reading in [threads.submit(read) for _ in range(READ_CONNECTIONS)]:
            reading.result()
    kept = resident() - before
    database.close()
    assert kept < 60 * MIB, f"{kept / MIB:.0f} MiB were kept"
