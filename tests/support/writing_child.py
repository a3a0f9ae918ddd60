"""Child processes that write to a database until killed; run as a program with the database's URL and, where
there are several of them, the number of its first round.

A line on stdin begins a round: a child is forked (so that only one process pays for the imports), told by
``pid N``. It writes ``ack ROUND WRITER NUMBER`` after each use case that was acknowledged to it.
"""

from __future__ import annotations

import asyncio
import os
import sys

from sqlalchemy import insert

from pilothouse.blobs import store
from pilothouse.journal import Journal
from pilothouse.storage import Database, Tx, Writer

WRITERS = 8


async def write_for_ever(url: str, round: int) -> None:
    """Several writers, each with its own numbers, each acknowledging one before it goes on to the next."""
    database = Database(url)
    journal, writer = Journal(database), Writer(database)
    writer.start(journal)
    await asyncio.gather(*(count(writer, journal, round, one) for one in range(WRITERS)))


async def count(writer: Writer, journal: Journal, round: int, one: int) -> None:
    """Every use case changes a table and appends to the journal; some fail."""
    number = 0
    while True:

        def use_case(tx: Tx, number: int = number) -> None:
            id = f"{round}.{one}.{number}"
            row = {"id": id, "project": "", "sha256": "", "size": 0, "created_by": "", "created_at": tx.now}
            tx.conn.execute(insert(store.blobs).values(**row))
            journal.append(tx, f"run/{one}", "step.noted", "project/p", {"id": id})
            if number % 7 == 3:
                raise LookupError("changed its mind")

        try:
            await writer.write(use_case)
        except LookupError:
            pass
        else:
            os.write(1, b"ack %d %d %d\n" % (round, one, number))
        number += 1


def main(url: str, first: int) -> None:
    """Rounds, one after another."""
    for round, _ in enumerate(sys.stdin, first):
        child = os.fork()
        if child == 0:
            asyncio.run(write_for_ever(url, round))
        os.write(1, b"pid %d\n" % child)
        os.waitpid(child, 0)
        os.write(1, b"gone\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
