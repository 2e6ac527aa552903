"""Builds that meet with accidents: each in a forked process that leads a group of its own, to be killed from here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from compile import executor
from compile.guard import MARK
from compile.job import RECORD
from compile.progress import Lines
from compile.steps import Plan, Step
from tests.compile.builds import RUNNERS, small_plan, step


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A disk of `size`, as mount spells it, at `place`; the test is skipped where it cannot be mounted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


SLOWLY = """
import subprocess, sys, time
read = b''.join(open(p, 'rb').read() for p in sys.argv[1:])
with open('out.bin', 'wb') as file:
    for piece in range(8):
        file.write(bytes((b + piece) % 251 for b in read[:512] + bytes(range(200)) * 10))
        file.flush()
        time.sleep(0.004)
open('more.txt', 'w').write(str(len(read)))
"""
# The writer is a grandchild, in a session of its own, as with tools that start tools.
NESTED = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {SLOWLY!r}, *sys.argv[1:]], " + (
    "start_new_session=True, check=True)"
)


def slow_plan(folder: Path, store: bool = True, passing: bool = False) -> Plan:
    """Two chains that meet: seven steps of 50 ms and more. `passing`: all that is read passes, or a part of it."""

    def make(name: str, code: str, *needs: str) -> Step:
        made = step(name, code, *(f"{n}/" for n in needs), outputs=("out.bin", "more.txt"))
        files = [f"../{n}/out.bin" for n in needs]
        goes = () if name == "last" or not passing else ("out.bin",) if name == "d" else ("*",)
        return replace(made, commands=((made.commands[0][0], "-S", "-c", code, *files),), passing=goes)

    steps = (
        make("a", SLOWLY),
        make("b", NESTED),
        make("c", SLOWLY, "a"),
        make("d", NESTED, "a"),
        make("e", SLOWLY, "b", "c"),
        make("f", SLOWLY, "d"),
        make("last", NESTED, "e", "f"),
    )
    return replace(small_plan(folder, *steps), store=folder.parent / ".steps" if store else None)


class Quiet(Lines):
    """Says nothing."""

    def __init__(self) -> None:
        from rich.console import Console

        super().__init__(Console(quiet=True))


def run(plan: Plan, jobs: int = 2) -> None:
    executor.run(plan, RUNNERS, jobs, Quiet())


def start(work: Callable[[], None]) -> int:
    """Do `work` in a process of its own, the first of a group. Its number."""
    pid = os.fork()
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)  # both do it, so that it holds whoever comes first
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def end(pid: int) -> int:
    """Wait for it: exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid: int, group: bool) -> None:
    """As the kernel does when memory is out: no handler runs. Of the whole group, or the build alone."""
    (os.killpg if group else os.kill)(pid, signal.SIGKILL)
    end(pid)


def outputs(folder: Path) -> dict[str, bytes]:
    """All that the steps left in a build folder, and in the records what does not depend on time and memory."""
    found = {}
    for path in sorted((folder / "work").rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == RECORD:
            record = json.loads(path.read_text())
            found[name] = json.dumps([record["identity"], record["outputs"]]).encode()
        elif path.is_file() and path.name != "digests.json":
            found[name] = path.read_bytes()
    return found


def remains(build: int) -> list[int]:
    """Processes that carry the mark of the build with this number."""
    mark, found = f"{MARK}={build}-".encode(), []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)
