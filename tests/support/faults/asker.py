"""Run as a program: ask ``/healthz`` for ever, on a new connection each time (see ``support.faults.watch.Pulse``).

Arguments: the port and the process id of the server. A line for each answer: the seconds the server worked while
we waited (``inf`` where none came), and the seconds of one unit of work at that moment.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from effort import unit  # beside this file

TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 300.0  # seconds; what counts is the server's work, not the time
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def spent(pid: int) -> float:
    """CPU seconds of a process."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def answered(port: int) -> bool:
    """Whether one question got its answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
            sock.sendall(REQUEST)
            return b" 200 " in b"".join(iter(lambda: sock.recv(4096), b""))[:20]
    except OSError:
        return False


def main(port: int, pid: int) -> None:
    """Run until terminated."""
    while True:
        began, work = time.perf_counter(), spent(pid)
        good = answered(port)
        took = min(time.perf_counter() - began, spent(pid) - work) if good else float("inf")
        print(took, unit(), flush=True)
        time.sleep(0.02)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
