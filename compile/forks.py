"""Starts commands of the compiler's Python tools as forks of a server that holds their imports: one a tool, one build.

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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from compile import forkserver
from compile.forkserver import LONGEST, READY

TOOLS = ("model_transform.py", "model_deploy.py")
MEMORY = 2**29  # bytes that both servers hold for themselves
PATIENCE = 120.0  # seconds for the imports
GRACE = 5.0  # seconds to end
_PYTHON = re.compile(r"#!\s*(?:/usr/bin/env\s+)?(\S*python[\d.]*)\s*\n")


class Child:
    """A command that runs in a fork."""

    def __init__(self, link: socket.socket, pid: int) -> None:
        self._link, self._pid = link, pid

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
                os.killpg(self._pid, signal.SIGKILL)
            return -signal.SIGKILL, 0
        return code, memory


class Servers:
    """The servers of one build. `environment`: the compiler's, as its commands get it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._servers: dict[str, _Server] = {}
        self._abandoned = False
        self._lock = threading.Lock()  # of the two above

    def warm(self, tools: Iterable[str]) -> bool:
        """Start the servers of those of `tools` that can have one, and wait for none. Whether there is any."""
        return any([self._server(tool) for tool in set(tools) if tool in TOOLS])

    def start(self, command: tuple[str, ...], cwd: Path, log: IO[bytes]) -> Child | None:
        """Run `command` in `cwd`, its output to `log`. None where it has to be started as a process."""
        return self._server(command[0]).start(command[1:], cwd, log) if command[0] in TOOLS else None

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

    def _server(self, tool: str) -> _Server:
        with self._lock:
            if tool not in self._servers:
                self._servers[tool] = _Server(tool, self._environment)
                if self._abandoned:
                    self._servers[tool].abandon()
            return self._servers[tool]


class _Server:
    """One server, seen from the build."""

    def __init__(self, tool: str, environment: Mapping[str, str]) -> None:
        self._tool = tool
        self._reason: str | None = None  # why it does not serve; empty: it does; None: not known yet
        self._lock = threading.Lock()  # of _reason
        self._process: subprocess.Popen[bytes] | None = None
        self._control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            try:
                self._process = subprocess.Popen(
                    _command(tool, environment.get("PATH", os.defpath), far.fileno()),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    pass_fds=[far.fileno()],
                )
            except (OSError, ValueError) as error:
                self._reason = str(error)

    def start(self, arguments: tuple[str, ...], cwd: Path, log: IO[bytes]) -> Child | None:
        reason = self._wait()
        if not reason:
            try:
                return self._fork(arguments, cwd, log)
            except (OSError, ValueError) as error:
                reason = str(error)
        log.write(f"# {self._tool} runs without its fork server: {reason}\n".encode())
        log.flush()
        return None

    def abandon(self) -> None:
        if self._process and self._reason is None:
            self._process.kill()

    def close(self) -> None:
        self._control.close()
        if self._process:
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _wait(self) -> str:
        """Until it is known whether it serves: why not, or empty."""
        with self._lock:
            if self._reason is None:
                self._control.settimeout(PATIENCE)
                try:
                    hello = self._control.recv(LONGEST)
                except OSError as error:
                    hello = str(error).encode()
                self._control.settimeout(None)
                self._reason = "" if hello == READY else hello.decode(errors="replace") or "it ended at its start"
                if self._reason and self._process:
                    self._process.kill()
            return self._reason

    def _fork(self, arguments: tuple[str, ...], cwd: Path, log: IO[bytes]) -> Child:
        """ValueError with the server's words where it cannot."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            message = json.dumps([str(cwd), *arguments]).encode()
            socket.send_fds(self._control, [message], [log.fileno(), far.fileno()])
        answer = near.recv(LONGEST).decode()
        if not answer.isdecimal():
            raise ValueError(answer or "it has ended")
        return Child(near, int(answer))


def _command(tool: str, path: str, control: int) -> list[str]:
    """That starts the server, by the Python which the tool's first line names. OSError, ValueError if there is none."""
    script = shutil.which(tool, path=path)
    if not script:
        raise ValueError("it is not there")
    python = _PYTHON.match(Path(script).read_text(encoding="utf-8"))
    if not python:
        raise ValueError("it is no Python script")
    return [shutil.which(python[1], path=path) or python[1], forkserver.__file__, str(control), script]
