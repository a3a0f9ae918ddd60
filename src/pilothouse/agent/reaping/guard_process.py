"""The guard process: starts the supervisors of steps, and ends all processes of the agent when the agent dies.

`python -I -S guard_process.py FD`, where FD is a socket to the agent. It first sends its backend (`{"backend": …,
"why": …}`). The packet `supervisor` starts a supervisor, and carries the supervisor's end of a socket to the agent;
`watch PID` and `forget PID` name children of the agent (such as `git`) that must not outlive it.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import time

if __name__ == "__main__":  # run as a file, without site-packages
    sys.path.insert(0, __file__.rsplit("/", 4)[0])

from pilothouse.agent.reaping import processes
from pilothouse.agent.reaping.backends import choose
from pilothouse.agent.reaping.groups import Groups
from pilothouse.agent.reaping.packets import receive
from pilothouse.agent.reaping.supervisor import Supervisor, do_nothing, wakeups

END_WITHIN = 3.0  # seconds for the supervisors to kill all processes when the agent has ended
_ORPHANS = 0.02  # seconds between checks for orphans that are being killed
_AT_ONCE = 100  # children that are reaped before requests of the agent are read again


class GuardProcess:
    def __init__(self, agent: socket.socket, groups: Groups) -> None:
        self._agent, self._groups = agent, groups
        self._supervisors: set[int] = set()
        self._watched: dict[int, processes.Process] = {}
        self._alive, self._own = os.pipe()  # supervisors detect the end of this process by the closed pipe
        self._wake = wakeups()

    def serve(self) -> None:
        """Serve until the agent and all its processes have ended."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._agent, select.POLLIN)
        while True:
            orphans = self._reap()
            ready = [fd for fd, _ in poll.poll(_ORPHANS * 1000 if orphans else None)]
            if self._wake in ready:
                os.read(self._wake, 4096)
            if self._agent.fileno() in ready and not self._handle_request():
                break
        self._finish()

    def _handle_request(self) -> bool:
        """Handle a request of the agent. False: the agent has ended."""
        packet, fds = receive(self._agent, 1)
        if not packet:
            return False
        word, _, argument = packet.partition(b" ")
        if word == b"watch" and (child := processes.look_up(int(argument))) is not None:
            self._watched[child.pid] = child
        elif word == b"forget":
            self._watched.pop(int(argument), None)
        elif word == b"supervisor":
            self._start(fds)
        return True

    def _start(self, fds: list[int]) -> None:
        """Fork a supervisor that communicates with the agent over this socket."""
        pid = os.fork()
        if not pid:
            self._supervise(*fds)
        self._supervisors.add(pid)
        os.close(*fds)

    def _supervise(self, control: int) -> None:
        try:
            os.close(self._own)
            self._agent.close()
            processes.become_subreaper("pilot-step")
            Supervisor(socket.socket(fileno=control), self._alive, self._groups).serve()
        finally:
            os._exit(0)

    def _reap(self) -> bool:
        """Reap children; returns whether there are orphans of a supervisor that was killed, for example by its step.

        A stopped supervisor is continued, and orphans are killed.
        """
        for _ in range(_AT_ONCE):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return False
            if not pid:
                break
            if os.WIFSTOPPED(status):
                processes.signal_to(pid, signal.SIGCONT if pid in self._supervisors else signal.SIGKILL)
            elif pid in self._supervisors:
                self._supervisors.remove(pid)
                self._groups.clear(str(pid))
        else:
            return True
        orphans = [pid for pid in processes.children() if pid not in self._supervisors]
        for pid in orphans:
            processes.signal_to(pid, signal.SIGKILL)
        return bool(orphans)

    def _finish(self) -> None:
        self._agent.close()
        for child in self._watched.values():
            processes.send_group(child, signal.SIGKILL)
        deadline = time.monotonic() + END_WITHIN
        while (self._reap() or self._supervisors) and time.monotonic() < deadline:
            time.sleep(_ORPHANS)
        self._groups.close()


def main(fd: int, wanted: str = "") -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, do_nothing)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    processes.become_subreaper("pilot-guard")
    agent = socket.socket(fileno=fd)
    agent.set_inheritable(False)
    groups, why = choose(wanted)
    agent.send(json.dumps({"backend": groups.backend, "why": why}).encode())
    gc.disable()
    gc.freeze()  # forks share the objects that exist now
    GuardProcess(agent, groups).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:3])
