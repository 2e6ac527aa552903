"""Keeps a build alone in its folder, and leaves nothing running when it is killed in a way that it cannot notice.

`locked` holds the folder's lock, which goes when the process does, however it ends. Beside it a small process waits
for that end: this file, run as a script. It then kills whatever carries the build's mark in its environment, that is
every command that a step had started and what those started in turn, and holds the lock until they are gone; so the
next build never meets the remains of the last. Commands in docker containers are out of its reach.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "HF2BMODEL_BUILD"
PATIENCE = 10.0  # seconds for the remains of a killed build to go
_PAUSE, _SILENCE = 0.02, 3  # seconds between looks; looks that must find nothing, since a fork gets its mark with exec


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[str]:
    """The folder is ours alone. Gives the mark that commands are to carry. UserError where another build is there."""
    from contract.errors import UserError

    with (folder / ".lock").open("a+") as file:
        if not _acquire(file.fileno(), folder):
            remedy = "wait until it has finished, or choose another place with OUT="
            raise UserError("another build is at work here", str(folder), remedy)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        mark = f"{os.getpid()}-{time.time_ns()}"
        guard = _start(mark, file.fileno())
        try:
            yield mark
        finally:
            if guard:
                with contextlib.suppress(OSError):
                    guard.communicate(b"done")
                guard.wait()


def _acquire(lock: int, folder: Path) -> bool:
    """At once, or as soon as a build that is gone has been cleared away."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if _holder_lives(folder) or time.monotonic() > deadline:
                return False
        time.sleep(_PAUSE)


def _holder_lives(folder: Path) -> bool:
    try:
        os.kill(int((folder / ".lock").read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


def _start(mark: str, lock: int) -> subprocess.Popen[bytes] | None:
    """None where it does not start; the build does without, then."""
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # whoever kills the build's group or session does not kill its guard
            pass_fds=[lock],
        )
    except OSError:
        return None


def _marked(mark: bytes) -> list[int]:
    """The processes whose environment holds `mark`."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                if mark in file.read():
                    found.append(int(entry))
    return found


def main(mark: str) -> None:
    """Wait for the end of the build; where it said no word before it, kill all that carries `mark`."""
    if sys.stdin.buffer.read():
        return
    silent, deadline = 0, time.monotonic() + PATIENCE
    while silent < _SILENCE and time.monotonic() < deadline:
        found = _marked(f"{MARK}={mark}".encode())
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        silent = 0 if found else silent + 1
        time.sleep(_PAUSE)


if __name__ == "__main__":
    main(sys.argv[1])
