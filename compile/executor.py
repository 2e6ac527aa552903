"""Runs a plan: in parallel, each step in a folder of its own, and only the steps whose result would differ.

A step is skipped when the digest of its commands, inputs and tools is that of last time and its outputs are whole;
never because a file is there. It works in `work/<step>.part/`, renamed when all is well, so nothing half-written
stays. Its output goes to `logs/<step>.log`. It shows nothing (compile.progress does).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import queue
import shlex
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from compile import estimate, forks
from compile.digest import Digests, combine
from compile.job import Failure, Job, Launcher, Record, Results, read_record
from compile.plan import COMPILER, Plan, Step
from compile.store import Store, whole
from compile.toolchain import Runner
from contract.errors import UserError


class StepFailed(Exception):
    """A step did not do its work. `command`: as typed in a shell, or empty. `tail`: last lines of `log`, a path."""

    def __init__(self, step: str, failure: Failure, log: Path) -> None:
        super().__init__(f"step {step} failed: {failure.reason}; log: {log}")
        self.step, self.reason, self.log = step, failure.reason, log
        self.command, self.tail = shlex.join(failure.command), failure.tail


class Events(Protocol):
    """What a display is told, always from the thread that called `run`.

    `running`: a step has started `command`, one of its own. `seconds`: the step's wall time.
    """

    def begin(self, plan: Plan, jobs: int) -> None: ...
    def running(self, step: Step, command: tuple[str, ...]) -> None: ...
    def finished(self, step: Step, seconds: float) -> None: ...
    def skipped(self, step: Step) -> None: ...
    def end(self, failed: bool) -> None: ...


def run(plan: Plan, runners: Mapping[str, Runner], jobs: int, events: Events) -> dict[str, Record]:
    """Bring every step of `plan` up to date, at most `jobs` at once and fewer where memory would not hold them.

    StepFailed for the first step that fails (the others are stopped); UserError where another build uses the folder
    or the disk is too small. Ctrl-C, SIGTERM and SIGHUP end every child, then raise KeyboardInterrupt.
    """
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made ({error.strerror})", str(plan.folder), "choose another place: OUT=") from error
    with _locked(plan.folder), _interruptible():
        running = _Run(plan, runners, max(1, jobs), events)
        events.begin(plan, running.jobs)
        failed = True
        try:
            records = running.loop()
            failed = False
        finally:
            with _deaf():
                running.stop()
            events.end(failed)
    return records


def read_records(plan: Plan) -> dict[str, Record]:
    """What each finished step left behind; steps that never finished are absent."""
    found = {step.name: read_record(plan.folder / "work" / step.name) for step in plan.steps}
    return {name: record for name, record in found.items() if record}


class _Run:
    def __init__(self, plan: Plan, runners: Mapping[str, Runner], jobs: int, events: Events) -> None:
        self.plan, self.runners, self.jobs, self.events = plan, runners, jobs, events
        self.work, self.logs = plan.folder / "work", plan.folder / "logs"
        for folder in (self.work, self.logs):
            folder.mkdir(exist_ok=True)
        for part in self.work.glob("*.part"):  # of a build that was killed
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        self.digests = Digests(self.work / "digests.json")
        self.store = Store(plan.store) if plan.store else None
        self.waiting = {step.name: step for step in plan.steps}
        self.ready: dict[str, str] = {}  # steps to run whose inputs are all there, with their identities
        self.running: dict[str, Job] = {}
        self.done: dict[str, Record] = {}
        self.results: Results = queue.Queue()
        self.memory = _available_memory()
        compiler = runners.get(COMPILER)
        self.servers = forks.Servers(compiler.environment()) if compiler and not compiler.docker else None

    def loop(self) -> dict[str, Record]:
        self._settle()
        if self.waiting:
            estimate.check_disk(self.plan.folder, self.plan.disk - _size(self.work))
        self._warm()
        while self.waiting:
            self._start()
            if not self.running:
                raise ValueError(f"steps that wait for each other: {', '.join(self.waiting)}")
            step, news = self.results.get()
            if isinstance(news, tuple):
                self.events.running(step, news)
                continue
            job = self.running.pop(step.name)
            if isinstance(news, Failure):
                raise StepFailed(step.name, news, job.log)
            if self.store:
                self.store.keep(self.work / step.name, news)
            self._finish(step, news)
            self.events.finished(step, news.seconds)
            self._settle()
        return self.done

    def stop(self) -> None:
        """End what still runs, and wait until it is gone."""
        for job in self.running.values():
            job.stop()
        if self.servers:
            self.servers.abandon()
        for job in self.running.values():
            job.join()
        if self.servers:
            self.servers.close()
        self.digests.save()

    def _warm(self) -> None:
        """Start the servers that steps will want, while other steps run."""
        commands = (c for step in self.waiting.values() if step.where == COMPILER for c in step.commands)
        if self.servers and self.servers.warm(command[0] for command in commands):
            self.memory -= forks.MEMORY

    def _settle(self) -> None:
        """Skip what is up to date. In the plan's order, so that one pass finds all of it."""
        for step in list(self.waiting.values()):
            if step.name in self.ready or step.name in self.running or not all(n in self.done for n in step.needs):
                continue
            identity = self._identity(step)
            if record := self._known(step, identity):
                self._finish(step, record)
                self.events.skipped(step)
            else:
                self.ready[step.name] = identity

    def _known(self, step: Step, identity: str) -> Record | None:
        """The step's record where its outputs stand here, or could be taken from another build."""
        folder = self.work / step.name
        record = read_record(folder)
        if record and record.identity == identity and whole(folder, record, self.digests):
            return record
        return self.store.take(identity, folder, self.digests) if self.store else None

    def _finish(self, step: Step, record: Record) -> None:
        del self.waiting[step.name]
        self.done[step.name] = record

    def _start(self) -> None:
        for name in list(self.ready):
            step = self.waiting[name]
            taken = sum(job.step.memory for job in self.running.values())
            if len(self.running) < self.jobs and (not self.running or taken + step.memory <= self.memory):
                launcher = Launcher(self.runners[step.where], self.servers if step.where == COMPILER else None)
                folders = (self.work, self.logs)
                job = Job(step, launcher, self.ready.pop(name), folders, self.digests, self.results)
                self.running[name] = job
                job.start()

    def _identity(self, step: Step) -> str:
        inputs = (self._input(name) for name in step.inputs)
        return combine(
            (json.dumps(step.commands), json.dumps(step.outputs), self.runners[step.where].identity, *inputs)
        )

    def _input(self, name: str) -> str:
        if name.startswith("/"):
            try:
                return self.digests.path(Path(name))
            except FileNotFoundError as error:
                raise UserError("is not there", name, "give MODEL=/path/to/checkpoint") from error
        step, _, file = name.partition("/")
        outputs = self.done[step].outputs
        return outputs[file][1] if file else combine(f"{name} {digest}" for name, (_, digest) in outputs.items())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder is ours alone; the lock goes when the process does, however it ends."""
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            remedy = "wait until it has finished, or choose another place with OUT="
            raise UserError("another build is at work here", str(folder), remedy) from error
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP (a closed terminal) as Ctrl-C: the default would leave the compilers running."""

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    with _handled(interrupt, signal.SIGTERM, signal.SIGHUP):
        yield


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """While children are being ended, nothing else."""
    with _handled(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextlib.contextmanager
def _handled(handler: object, *numbers: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers, and only it gets signals
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _available_memory() -> int:
    """Bytes that new processes may take without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
