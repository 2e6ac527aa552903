"""One step as it runs: its commands in their own process group, its folder, log, time and memory."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

from compile import parts
from compile.digest import Digests
from compile.process import DEFERRED, Launcher, Process
from compile.spent import swept
from compile.steps import Step
from compile.watch import Level, profile

RECORD = "step.json"
TAIL_LINES = 15
GRACE = 3.0  # seconds between asking a step to stop and killing it
FULL = ("No space left on device", "Disk quota exceeded")  # as the C library says it
SCARCE = 2**20  # bytes: a disk with less is full


@dataclass(frozen=True)
class Record:
    """`identity`: the digest of all that decided the outputs. `outputs`: size and SHA-256 by name.

    `seconds`: wall time. `memory`: bytes, the largest process at its peak; 0 where that is not known. `profile`: bytes
    of all its processes, as compile.watch has them.
    """

    identity: str
    seconds: float
    memory: int
    outputs: dict[str, tuple[int, str]] = field(default_factory=dict)
    profile: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """`tail`: the last lines of the log. `full`: the disk was. `changed`: an input that another process changed while
    the step ran, so that nobody knows what it has read."""

    reason: str
    command: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    full: bool = False
    changed: str = ""


# A command that a step has started, then its end.
Results = queue.Queue[tuple[Step, tuple[str, ...] | Record | Failure]]


class Job:
    """Runs `step` in a thread and reports to `results`. `identity` goes into the record. `changed`: names an input that
    is not what the identity says; empty where all are. `may_take`: whether steps that take may."""

    may_take = True

    def __init__(
        self,
        step: Step,
        launcher: Launcher,
        identity: str,
        folders: tuple[Path, Path],
        digests: Digests,
        results: Results,
        changed: Callable[[], str] = str,
    ) -> None:
        work, logs = folders
        self.changed = changed
        self.takes = step.takes and self.may_take
        self.step, self.launcher, self.identity, self.digests, self.results = step, launcher, identity, digests, results
        self.folder, self.part = work / step.name, work / f"{step.name}.part"
        self.log = logs / f"{step.name}.log"
        self.memory, self.levels = 0, list[Level]()
        self._process: Process | None = None
        self._stopped = False
        self._lock = threading.Lock()  # of the two above
        self._thread = threading.Thread(target=self._work, name=step.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the running command to end, and start no further one."""
        with self._lock:
            self._stopped = True
            self._signal(signal.SIGTERM)

    def join(self) -> None:
        """Wait until it is gone; kill what did not listen."""
        self._thread.join(GRACE)
        while self._thread.is_alive():
            with self._lock:
                self._signal(signal.SIGKILL)
            self._thread.join(GRACE)

    def _signal(self, number: int) -> None:
        if self._process:
            self._process.signal(number)

    def _work(self) -> None:
        result: Record | Failure
        try:
            result = self._run()
        except Exception as error:
            result = Failure(f"{type(error).__name__}: {error}")
        if isinstance(result, Failure):
            result = replace(result, full=self._is_full(result), changed=result.changed or self.changed())
            if not self.takes:  # what was taken is put back by the next build
                shutil.rmtree(self.part, ignore_errors=True)
        self.results.put((self.step, result))

    def _is_full(self, failure: Failure) -> bool:
        """Whether it failed for a full disk, as far as its words or the room left tell."""
        if any(word in line for word in FULL for line in (failure.reason, *failure.tail)):
            return True
        with contextlib.suppress(OSError):
            return shutil.disk_usage(self.log.parent).free < SCARCE
        return False

    def _run(self) -> Record | Failure:
        start = time.monotonic()
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        kernels = self.launcher.kernels if self.step.deploys else None
        if kernels:
            kernels.lend(self.part)
        if self.takes:
            (self.part / parts.LEAVE).touch()
        if failure := self._perform():
            return failure
        if kernels and (reason := kernels.collect(self.part)):
            return Failure(reason, (), tail(self.log))
        missing = [o for o in self.step.outputs if not any(p.is_file() for p in self.part.glob(o))]
        if missing:
            return Failure(f"it made no {missing[0]}", self.step.commands[-1], tail(self.log))
        if changed := self.changed():
            return Failure("an input has changed", changed=changed)
        return self._keep(start)

    def _perform(self) -> Failure | None:
        """Run the step's commands in `part`."""
        with self.log.open("wb") as log:
            for command in self.step.commands:
                self.results.put((self.step, command))
                if reason := self._execute(command, log):
                    return Failure(reason, command, tail(self.log))
        return None

    def _execute(self, command: tuple[str, ...], log: IO[bytes]) -> str:
        """Run one command to its end; empty if all went well, else what went wrong."""
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        deferred = self.launcher.deferred(command)
        try:
            with swept(self.part) if self.step.compiles else contextlib.nullcontext():
                code = self._call(command, log)
                if deferred and code == DEFERRED:
                    code = self._call(deferred, log)
        except OSError as error:
            return f"{command[0]} does not start: {error.strerror}"
        return "stopped" if self._stopped else reason_of(code)

    def _call(self, command: tuple[str, ...], log: IO[bytes]) -> int:
        """Exit code; of no meaning where the step was stopped."""
        if self._stopped:
            return 0
        fork = self.launcher.fork(command, self.part, log)
        with self._lock:
            if self._stopped and not fork:  # while it waited
                return 0
            self._process = process = fork or self.launcher.start(command, self.part, log)
            if self._stopped:
                process.signal(signal.SIGTERM)
        watch = self.launcher.watch
        with watch.over(process.group, self.levels) if watch else contextlib.nullcontext():
            code, memory = process.wait()
        self.memory = max(self.memory, memory if watch else 0)
        return code

    def _keep(self, start: float) -> Record:
        """Drop what is no output, record what is, and give the folder its name. `start`: of the step, by the clock."""
        kept = {p for pattern in self.step.outputs for p in self.part.glob(pattern) if p.is_file()}
        for path in sorted(self.part.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
            elif path not in kept:
                path.unlink()
        outputs = {str(p.relative_to(self.part)): (p.stat().st_size, self.digests.file(p)) for p in sorted(kept)}
        end = time.monotonic()
        shape = profile(self.levels, start, end, self.memory)
        record = Record(self.identity, round(end - start, 3), self.memory, outputs, shape)
        (self.part / RECORD).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.part.rename(self.folder)
        return record


def reason_of(code: int) -> str:
    """What an exit code says; empty if all went well."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}" + (", perhaps out of memory" if code == -9 else "")
    return f"exit code {code}" if code else ""


def read_record(folder: Path) -> Record | None:
    """What a finished step left; None where there is nothing, or nothing readable."""
    try:
        data = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        data["outputs"] = {name: (int(size), str(digest)) for name, (size, digest) in data["outputs"].items()}
        return Record(**data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def tail(log: Path) -> tuple[str, ...]:
    """The last lines that say something: progress bars, which redraw one line, count as their last state."""
    text = log.read_bytes()[-65536:].decode("utf-8", "replace")
    lines = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return tuple(line[:500] for line in lines if line)[-TAIL_LINES:]
