"""Packets with descriptors over a socket of `SOCK_SEQPACKET`."""

from __future__ import annotations

import array
import socket

MAX_PACKET = 64 * 1024  # bytes


def receive(connection: socket.socket, descriptors: int) -> tuple[bytes, list[int]]:
    """The next packet with its descriptors; an empty one if the other side has closed."""
    fds = array.array("i")
    space = socket.CMSG_SPACE(fds.itemsize * descriptors)
    try:
        packet, messages, _, _ = connection.recvmsg(MAX_PACKET, space, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return b"", []
    for level, kind, data in messages:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return packet, list(fds)
