"""Server and agent in network namespaces of their own, and between them a network that can be made bad.

The test lives with the server in one namespace, the agent in the other. The network is either a pair of virtual
Ethernet devices with the kernel's netem, or two TUN devices and a program that carries the packets between them
(``support.faults.wire.py``), for kernels without netem. Needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import psutil
import pytest

SERVER, AGENT, OTHER, BITS = "10.83.0.1", "10.83.0.2", "10.83.0.3", 29
"""Addresses of both sides, another one of the agent's, and the bits of their network."""
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Trouble:
    """What is wrong in one direction. Seconds, shares of packets, bytes a second; ``cut``: nothing gets through."""

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    rate: float = 0.0
    cut: bool = False


FINE = Trouble()
CUT = Trouble(cut=True)


class Network(Protocol):
    """What lies between the two."""

    def set(self, to_server: Trouble, to_agent: Trouble) -> None:
        """From now on it is like this."""


def run(*words: str) -> str:
    """A command that must succeed; returns its output."""
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip()}"
    return done.stdout


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread, and what it starts, is in that network namespace."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(there)
        yield
    finally:
        _enter(here)
        os.close(here)
        os.close(there)


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Two of them, for the server and for the agent, with nothing but their loopback; skips where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command ip (iproute2)")
    _sweep()
    names = f"ph{os.getpid()}s", f"ph{os.getpid()}a"
    made = []
    try:
        for name in names:
            done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
            if done.returncode != 0:
                pytest.skip(f"this machine gives no network namespaces: {done.stderr.strip()}")
            made.append(name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in made:
            run("ip", "netns", "del", name)


def _sweep() -> None:
    """Namespaces of tests that were killed."""
    for name in re.findall(r"^ph(\d+)[sa]\b", run("ip", "netns", "list"), re.MULTILINE):
        if not psutil.pid_exists(int(name)):
            for end in "sa":
                subprocess.run(["ip", "netns", "del", f"ph{name}{end}"], capture_output=True)


# -- with the kernel's netem ------------------------------------------------------------------------------


class Netem:
    """A pair of virtual Ethernet devices; each end treats what it sends."""

    def __init__(self, server: str, agent: str) -> None:
        self._server, self._agent = server, agent

    def set(self, to_server: Trouble, to_agent: Trouble) -> None:
        """See :class:`Network`."""
        for namespace, trouble in ((self._agent, to_server), (self._server, to_agent)):
            run("tc", "-n", namespace, "qdisc", "replace", "dev", "wire", "root", "netem", *_netem(trouble))


def _netem(trouble: Trouble) -> list[str]:
    words = ["delay", f"{trouble.delay * 1000:g}ms", f"{trouble.jitter * 1000:g}ms", "limit", "1000"]
    loss = 100.0 if trouble.cut else trouble.loss * 100
    for name, share in (
        ("loss", loss),
        ("duplicate", trouble.duplicate * 100),
        ("corrupt", trouble.corrupt * 100),
    ):
        words += [name, f"{share:g}%"] if share else []
    return [*words, "rate", f"{trouble.rate * 8:g}bit"] if trouble.rate else words


@contextlib.contextmanager
def netem(server: str, agent: str) -> Iterator[Netem]:
    """Skip if the kernel has no netem."""
    run("ip", "-n", server, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", agent)
    _address(server, agent)
    if shutil.which("tc") is None:
        pytest.skip("netem needs the command tc (iproute2)")
    tried = subprocess.run(
        ["tc", "-n", server, "qdisc", "add", "dev", "wire", "root", "netem", "delay", "1ms"],
        capture_output=True,
        text=True,
    )
    if tried.returncode != 0:
        pytest.skip(f"this kernel has no netem; tc says: {tried.stderr.strip()}")
    yield Netem(server, agent)


# -- without --------------------------------------------------------------------------------------------


class Relay:
    """Two TUN devices and the program between them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def set(self, to_server: Trouble, to_agent: Trouble) -> None:
        """See :class:`Network`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([asdict(to_agent), asdict(to_server)]) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "set\n", "the relay has ended"


@contextlib.contextmanager
def relay(server: str, agent: str, seed: str) -> Iterator[Relay]:
    """Skips where there are no TUN devices."""
    if not Path("/dev/net/tun").exists():
        pytest.skip("a relay needs TUN devices (/dev/net/tun)")
    devices = [_tun(server), _tun(agent)]
    _address(server, agent)
    program = str(Path(__file__).with_name("wire.py"))
    process = subprocess.Popen(
        [sys.executable, "-S", program, *map(str, devices), seed],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=devices,
        text=True,
    )
    for device in devices:
        os.close(device)
    try:
        yield Relay(process)
    finally:
        process.kill()
        process.communicate()


def _tun(namespace: str) -> int:
    with inside(namespace):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"wire", _IFF_TUN | _IFF_NO_PI))
    return device


def _address(server: str, agent: str) -> None:
    for namespace, address in ((server, SERVER), (agent, AGENT)):
        run("ip", "-n", namespace, "addr", "add", f"{address}/{BITS}", "dev", "wire")
        run("ip", "-n", namespace, "link", "set", "wire", "up")
