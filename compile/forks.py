"""Starts commands of Python tools, the compiler's and ours, as forks of servers that hold their imports, for one build.

Where a server cannot be had, or has ended, the step's log says why and there is no Child: the caller then starts the
command as a process, which gives the same. compile.forkserver is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import IO

from compile import forkserver
from compile.forkserver import LONGEST, READY

# Our own steps have two servers: those without torch are many, and need not wait for its imports nor carry them.
TORCH, ARRAYS = "steps with torch", "steps without torch"
_EXPORTERS = ("python", "-m", "exporters")
# How the commands of each server begin.
SERVED: dict[str, tuple[tuple[str, ...], ...]] = {
    "model_transform.py": (("model_transform.py",),),
    "model_deploy.py": (("model_deploy.py",),),
    TORCH: ((*_EXPORTERS, "trace"), (*_EXPORTERS, "parity")),
    ARRAYS: ((*_EXPORTERS, "bind"), ("python", "-m", "compile.combine")),
}
# Of ours, the modules to import ahead. (ONNX Runtime starts a thread, which no fork may have.)
AHEAD = {
    TORCH: ("exporters.__main__", "exporters.model", "exporters.trace", "exporters.parity"),
    ARRAYS: ("exporters.__main__", "exporters.bind", "exporters.checkpoint", "compile.combine"),
}
# Bytes that a server holds (Pss, torch 2.11 and 2.13), and bytes that are the server's of those resident in its forks.
# A fork for model_deploy starts the compiler as processes of their own, which are far larger.
MEMORY = {"model_transform.py": 780 * 10**6, "model_deploy.py": 60 * 10**6, TORCH: 360 * 10**6, ARRAYS: 25 * 10**6}
SHARED = {"model_transform.py": 435 * 10**6, "model_deploy.py": 0, TORCH: 290 * 10**6, ARRAYS: 36 * 10**6}
# Where who starts builds one after the other, as our tests do, keeps servers for all of them: JSON, sockets by name.
LENT = "HF2BMODEL_SERVERS"
PATIENCE = 120.0  # seconds for the imports
GRACE = 5.0  # seconds to end
_PYTHON = re.compile(r"#!\s*(?:/usr/bin/env\s+)?(\S*python[\d.]*)\s*\n")


class Child:
    """A command that runs in a fork. `ended`: called when it has been waited for."""

    def __init__(self, link: socket.socket, pid: int, ended: Callable[[], None]) -> None:
        self._link, self.group, self._ended = link, pid, ended

    def signal(self, number: int) -> None:
        """Send `number` to the command's process group; nothing where it has ended."""
        with contextlib.suppress(OSError):
            self._link.send(str(number).encode())

    def wait(self) -> tuple[int, int]:
        """Exit code (negative: the signal that ended it) and the bytes of its largest process. Its group is gone."""
        try:
            code, memory = json.loads(self._link.recv(LONGEST))
        except (OSError, ValueError):  # somebody killed the server; so the fork is dead, but not what it had started
            with contextlib.suppress(OSError):
                os.killpg(self.group, signal.SIGKILL)
            code, memory = -signal.SIGKILL, 0
        self._ended()
        return code, memory


class Servers:
    """The servers of one build in one environment. `environment`: its variables, as its commands get them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        lent = json.loads(environment.get(LENT, "{}"))
        self._servers = {name: _Server(name, socket.socket(fileno=os.dup(number))) for name, number in lent.items()}
        self._abandoned = False
        self._retired, self._busy = set(self._servers), Counter[str]()  # another's are not ours to end
        self._lock = threading.Lock()  # of all above

    def warm(self, commands: Iterable[tuple[str, ...]]) -> None:
        """Start the servers that these commands can have, and wait for none."""
        for name in set(map(server_of, commands)) - {""}:
            self._server(name)

    def retire(self, commands: Iterable[tuple[str, ...]]) -> None:
        """End the servers that none of these commands, the last ones to come, can have. One that has to be started
        again, for what a command leaves to us (compile.process), will be wanted for more of them, and stays."""
        wanted = set(map(server_of, commands))
        with self._lock:
            idle = [n for n in self._servers if n not in wanted and not self._busy[n] and n not in self._retired]
            self._retired.update(idle)
            servers = [self._servers.pop(name) for name in idle]
        for server in servers:
            server.abandon()
            server.close()

    @property
    def held(self) -> int:
        """Bytes of memory, of the servers that run for this build alone."""
        with self._lock:
            return sum(MEMORY[name] for name, server in self._servers.items() if server.own)

    def start(self, command: tuple[str, ...], cwd: Path, log: IO[bytes]) -> Child | None:
        """Run `command` in `cwd`, its output to `log`. None where it has to be started as a process."""
        name = server_of(command)
        if not name:
            return None
        self._count(name, 1)
        arguments, ended = command[2 if name in AHEAD else 1 :], partial(self._count, name, -1)
        child = self._server(name).start(arguments, cwd, log, ended)
        if not child:
            ended()
        return child

    def _count(self, name: str, more: int) -> None:
        """Of the commands that have a server, or are about to."""
        with self._lock:
            self._busy[name] += more

    def lend(self, names: Iterable[str]) -> dict[str, int]:
        """For a process that inherits these sockets and gets them as LENT. Waits for the servers."""
        servers = {name: self._server(name) for name in names}
        return {name: server.control.fileno() for name, server in servers.items() if not server.wait()}

    def abandon(self) -> None:
        """End the servers that are not ready, and with that every wait for them."""
        with self._lock:
            self._abandoned = True
            for server in self._servers.values():
                server.abandon()

    def close(self) -> None:
        """End the servers and all that they run."""
        self.abandon()
        for server in self._servers.values():
            server.close()

    def _server(self, name: str) -> _Server:
        with self._lock:
            if name not in self._servers:
                self._servers[name] = _Server.started(name, self._environment)
                if self._abandoned:
                    self._servers[name].abandon()
            return self._servers[name]


@cache
def server_of(command: tuple[str, ...]) -> str:
    """The name of the server that can run `command`; empty for most."""
    return next((n for n, heads in SERVED.items() if any(command[: len(head)] == head for head in heads)), "")


class _Server:
    """One server, seen from the build."""

    def __init__(self, name: str, control: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        """`process`: None where it is another process's, and serves."""
        self._name, self.control, self._process = name, control, process
        self._reason = None if process else ""  # why it does not serve; empty: it does; None: not known yet
        self._lock = threading.Lock()  # of _reason

    @classmethod
    def started(cls, name: str, environment: Mapping[str, str]) -> _Server:
        control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            try:
                process = subprocess.Popen(
                    _command(name, environment.get("PATH", os.defpath), far.fileno()),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    pass_fds=[far.fileno()],
                )
            except (OSError, ValueError) as error:
                server = cls(name, control)
                server._reason = str(error)
                return server
        return cls(name, control, process)

    @property
    def own(self) -> bool:
        return self._process is not None

    def start(self, arguments: tuple[str, ...], cwd: Path, log: IO[bytes], ended: Callable[[], None]) -> Child | None:
        reason = self.wait()
        if not reason:
            try:
                return Child(*self._fork(arguments, cwd, log), ended)
            except (OSError, ValueError) as error:
                reason = str(error)
        log.write(f"# {self._name} runs without its fork server: {reason}\n".encode())
        log.flush()
        return None

    def abandon(self) -> None:
        if self._process and self._reason is None:
            self._process.kill()

    def close(self) -> None:
        self.control.close()
        if self._process:
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def wait(self) -> str:
        """Until it is known whether it serves: why not, or empty."""
        with self._lock:
            if self._reason is None:
                self.control.settimeout(PATIENCE)
                try:
                    hello = self.control.recv(LONGEST)
                except OSError as error:
                    hello = str(error).encode()
                self.control.settimeout(None)
                self._reason = "" if hello == READY else hello.decode(errors="replace") or "it ended at its start"
                if self._reason and self._process:
                    self._process.kill()
            return self._reason

    def _fork(self, arguments: tuple[str, ...], cwd: Path, log: IO[bytes]) -> tuple[socket.socket, int]:
        """Its socket and number. ValueError with the server's words where it cannot."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            message = json.dumps([str(cwd), *arguments]).encode()
            socket.send_fds(self.control, [message], [log.fileno(), far.fileno()])
        answer = near.recv(LONGEST).decode()
        if not answer.isdecimal():
            raise ValueError(answer or "it has ended")
        return near, int(answer)


def _command(name: str, path: str, control: int) -> list[str]:
    """That starts the server; a tool's, by the Python that its first line names. OSError, ValueError: there is none."""
    server = [forkserver.__file__, str(control)]
    if name in AHEAD:
        return [shutil.which("python", path=path) or "python", *server, "-m", *AHEAD[name]]
    script = shutil.which(name, path=path)
    if not script:
        raise ValueError("it is not there")
    python = _PYTHON.match(Path(script).read_text(encoding="utf-8"))
    if not python:
        raise ValueError("it is no Python script")
    return [shutil.which(python[1], path=path) or python[1], *server, script]
