"""One step as it runs: its commands in their own process group, its folder, log, time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from compile.digest import Digests
from compile.plan import Step
from compile.toolchain import Runner

RECORD = "step.json"
TAIL_LINES = 15
GRACE = 3.0  # seconds between asking a step to stop and killing it


@dataclass(frozen=True)
class Record:
    """`identity`: the digest of all that decided the outputs. `outputs`: size and SHA-256 by name.

    `seconds`: wall time. `memory`: bytes, the largest process at its peak.
    """

    identity: str
    seconds: float
    memory: int
    outputs: dict[str, tuple[int, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """`tail`: the last lines of the log."""

    reason: str
    command: tuple[str, ...]
    tail: tuple[str, ...]


# A command that a step has started, then its end.
Results = queue.Queue[tuple[Step, tuple[str, ...] | Record | Failure]]


class Job:
    """Runs `step` in a thread and reports to `results`. `identity` goes into the record."""

    def __init__(
        self,
        step: Step,
        runner: Runner,
        identity: str,
        folders: tuple[Path, Path],
        digests: Digests,
        results: Results,
    ) -> None:
        work, logs = folders
        self.step, self.runner, self.identity, self.digests, self.results = step, runner, identity, digests, results
        self.folder, self.part = work / step.name, work / f"{step.name}.part"
        self.log = logs / f"{step.name}.log"
        self.memory = 0
        self._process: subprocess.Popen[bytes] | None = None
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
        # The leader is not reaped before _process is None (see _wait), so its number cannot belong to anyone else.
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _work(self) -> None:
        result: Record | Failure
        try:
            result = self._run()
        except Exception as error:
            result = Failure(f"{type(error).__name__}: {error}", (), ())
        if isinstance(result, Failure):
            shutil.rmtree(self.part, ignore_errors=True)
        self.results.put((self.step, result))

    def _run(self) -> Record | Failure:
        start = time.monotonic()
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        with self.log.open("wb") as log:
            for command in self.step.commands:
                self.results.put((self.step, command))
                reason = self._execute(command, log)
                if reason:
                    return Failure(reason, command, tail(self.log))
        missing = [o for o in self.step.outputs if not any(p.is_file() for p in self.part.glob(o))]
        if missing:
            return Failure(f"it made no {missing[0]}", self.step.commands[-1], tail(self.log))
        return self._keep(time.monotonic() - start)

    def _execute(self, command: tuple[str, ...], log: IO[bytes]) -> str:
        """Run one command to its end; empty if all went well, else what went wrong."""
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        env = self.runner.environment()
        with self._lock:
            if self._stopped:
                return "stopped"
            try:
                self._process = process = subprocess.Popen(
                    self.runner.argv(command, str(self.part)),
                    cwd=self.part,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                return f"{command[0]} does not start: {error.strerror}"
        code = self._wait(process)
        if self._stopped:
            return "stopped"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}" + (", perhaps out of memory" if code == -9 else "")
        return f"exit code {code}" if code else ""

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Exit code. Whatever the command left running in its group ends with it."""
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._signal(signal.SIGKILL)
            self._process = None
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        self.memory = max(self.memory, usage.ru_maxrss * 1024)
        return code

    def _keep(self, seconds: float) -> Record:
        """Drop what is no output, record what is, and give the folder its name."""
        kept = {p for pattern in self.step.outputs for p in self.part.glob(pattern) if p.is_file()}
        for path in sorted(self.part.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
            elif path not in kept:
                path.unlink()
        outputs = {str(p.relative_to(self.part)): (p.stat().st_size, self.digests.file(p)) for p in sorted(kept)}
        record = Record(self.identity, round(seconds, 3), self.memory, outputs)
        (self.part / RECORD).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.part.rename(self.folder)
        return record


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
