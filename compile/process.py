"""How a command of a step is started: as a process of its own, or as a fork of a server (compile.forks)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from compile import forks
from compile.kernels import Kernels
from compile.toolchain import Runner
from compile.watch import Watch

DEFERRED = 75  # the exit code that compile.rebind is told to end with where it would start a tool: a server is faster


class Process(Protocol):
    """A command that runs in a process group of its own, `group`."""

    @property
    def group(self) -> int: ...

    def signal(self, number: int) -> None:
        """To its whole group; nothing where it has ended."""

    def wait(self) -> tuple[int, int]:
        """Exit code (negative: the signal that ended it) and the bytes of its largest process. Its group is gone."""


@dataclass(frozen=True)
class Launcher:
    """Starts the commands of one environment. `servers`: that run some of them; None where there are none. `env`:
    variables to set beside the environment's own. `kernels`: those that model_deploy may use. `watch`: looks at their
    memory; None where they run elsewhere."""

    runner: Runner
    servers: forks.Servers | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    kernels: Kernels | None = None
    watch: Watch | None = None

    def fork(self, command: tuple[str, ...], folder: Path, log: IO[bytes]) -> Process | None:
        """None where a server does not run it. It may wait until the server is ready."""
        return self.servers.start(command, folder, log) if self.servers else None

    def start(self, command: tuple[str, ...], folder: Path, log: IO[bytes]) -> Process:
        """OSError where it does not start."""
        env = {**self.runner.environment(), **self.env}
        if self.deferred(command):
            env["REBIND_DEFERRED"] = str(DEFERRED)
        return _Subprocess(self.runner.argv(command, str(folder)), folder, env, log)

    def deferred(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """What `command` leaves for us to start when it ends with DEFERRED; empty for most."""
        rest = command[command.index("--") + 1 :] if "--" in command else ()
        return rest if self.servers and forks.server_of(rest) else ()


class _Subprocess:
    def __init__(self, argv: list[str], folder: Path, env: dict[str, str], log: IO[bytes]) -> None:
        self._lock = threading.Lock()
        self._reaped = False
        self._popen = subprocess.Popen(
            argv,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.group = self._popen.pid

    def signal(self, number: int) -> None:
        with self._lock:
            self._signal(number)

    def wait(self) -> tuple[int, int]:
        os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._signal(signal.SIGKILL)
            self._reaped = True
            _, status, usage = os.wait4(self._popen.pid, 0)
        self._popen.returncode = code = os.waitstatus_to_exitcode(status)
        return code, usage.ru_maxrss * 1024

    def _signal(self, number: int) -> None:
        if not self._reaped:  # until then its number cannot belong to anyone else
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)
