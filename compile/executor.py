"""Runs a plan: in parallel, each step in a folder of its own, and only the steps whose result would differ.

A step is skipped when the digest of its commands, inputs and tools is that of last time and its outputs are whole;
never because a file is there. Outputs that pass go when all that read them is done; their digests stay in the step's
record, so that it counts as up to date, and it runs again only if a step that reads them has to (compile.outputs). It
works in `work/<step>.part/`, renamed when all is well, so nothing half-written stays. Its output goes to
`logs/<step>.log`. It shows nothing (compile.progress does).
"""

from __future__ import annotations

import contextlib
import json
import queue
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from compile import estimate, forks, guard, parts, resources
from compile.admission import Admission
from compile.cluster import Cluster, ClusterJob
from compile.digest import Digests, combine
from compile.interrupt import deaf, interruptible
from compile.job import Failure, Job, Record, Results, read_record
from compile.kernels import Kernels
from compile.outputs import Outputs
from compile.process import Launcher
from compile.steps import COMPILER, Plan, Step
from compile.store import Store, whole
from compile.toolchain import Runner
from compile.watch import Watch
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


Gates = Mapping[str, Callable[[], None]]
Publish = Callable[[Mapping[str, Record], Digests], None]


def run(
    plan: Plan,
    runners: Mapping[str, Runner],
    jobs: int,
    events: Events,
    gates: Gates | None = None,
    publish: Publish | None = None,
    cluster: Cluster | None = None,
) -> dict[str, Record]:
    """Bring every step of `plan` up to date, at most `jobs` at once and fewer where memory would not hold them. On
    `cluster`, where there is one, which looks after memory itself.

    `gates`: by the names of steps, what looks at their inputs when these are all there, and raises where the step
    must not use them. `publish`: called when all is up to date, while the folder is still ours alone.

    StepFailed for the first step that fails (the others are stopped); UserError where another build uses the folder,
    the disk is too small, or the checkpoint is changed meanwhile. Ctrl-C, SIGTERM and SIGHUP end every child, then
    raise KeyboardInterrupt.
    """
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made ({error.strerror})", str(plan.folder), "choose another place: OUT=") from error
    with resources.room(plan.folder), guard.locked(plan.folder) as mark, interruptible():
        running = _Run(plan, runners, max(1, jobs), events, gates or {}, {guard.MARK: mark}, cluster)
        events.begin(plan, running.jobs)
        failed = True
        try:
            records = running.loop()
            if publish:
                publish(records, running.digests)
            failed = False
        finally:
            with deaf():
                running.stop()
            events.end(failed)
    return records


class _Run:
    def __init__(
        self,
        plan: Plan,
        runners: Mapping[str, Runner],
        jobs: int,
        events: Events,
        gates: Gates,
        env: Mapping[str, str],
        cluster: Cluster | None,
    ) -> None:
        self.cluster = cluster
        self.plan, self.runners, self.jobs, self.events = plan, runners, jobs, events
        self.gates, self.env = gates, env
        self.work, self.logs = plan.folder / "work", plan.folder / "logs"
        for folder in (self.work, self.logs):
            folder.mkdir(exist_ok=True)
        parts.clear(self.work)
        self.digests = Digests(self.work / "digests.json")
        self.store = Store(plan.store) if plan.store else None
        if self.store:
            self.store.sweep()
        self.sources: dict[str, str] = {}  # inputs that no step makes, with their digests, the same for every step
        self.waiting = {step.name: step for step in plan.steps}
        self.ready: dict[str, str] = {}  # steps to run whose inputs are all there, with their identities
        self.running: dict[str, Job] = {}
        self.done: dict[str, Record] = {}
        self.outputs = Outputs(plan, self.work, self.store.folders() if self.store else [])
        self.results: Results = queue.Queue()
        self.memory = sys.maxsize if cluster else resources.available_memory()
        self.admission = Admission(plan, self.outputs, self.done, self.memory)
        compiler = runners.get(COMPILER)
        self.kernels = Kernels(compiler.identity, linked=not (compiler.docker or cluster)) if compiler else None
        served = {} if cluster else {where: runner for where, runner in runners.items() if not runner.docker}
        self.watch = Watch()
        self.servers = {where: forks.Servers({**runner.environment(), **env}) for where, runner in served.items()}

    def loop(self) -> dict[str, Record]:
        self._settle()
        if self.waiting:
            estimate.check_disk(self.plan.folder, self.plan.disk - resources.size(self.work))
        self._serve(begin=True)
        self.watch.start()
        while self.waiting:
            while self._revive():
                self._settle()
            self._start()
            if not self.running:
                raise ValueError(f"steps that wait for each other: {', '.join(self.waiting)}")
            step, news = self.results.get()
            if isinstance(news, tuple):
                self.events.running(step, news)
                continue
            job = self.running.pop(step.name)
            if isinstance(news, Failure):
                self._explain(news)
                raise StepFailed(step.name, news, job.log)
            if self.store:
                self.store.keep(self.work / step.name, news, self.digests, step.passes)
            self.events.finished(step, news.seconds)
            self._finish(step, news)
            self._settle()
            self._serve()
        if changed := self._changed(self.sources.items()):
            self._explain(Failure("", changed=changed))
        return self.done

    def _explain(self, failure: Failure) -> None:
        """UserError where it is no fault of the step's."""
        if failure.full:
            raise resources.full(self.plan.folder)
        if failure.changed:
            raise UserError("changed while the build read it", failure.changed, "build again when it stays as it is")

    def stop(self) -> None:
        """End what still runs, and wait until it is gone."""
        self.watch.stop()
        for job in self.running.values():
            job.stop()
        for servers in self.servers.values():
            servers.abandon()
        for job in self.running.values():
            job.join()
        for servers in self.servers.values():
            servers.close()
        with contextlib.suppress(OSError):  # it is but a memory
            self.digests.save()

    def _serve(self, begin: bool = False) -> None:
        """End the servers that no step wants any more. `begin`: start those that steps will want, while others run."""
        steps = (*self.waiting.values(), *(job.step for job in self.running.values()))
        for where, servers in self.servers.items():
            commands = [c for step in steps if step.where == where for c in step.commands]
            (servers.warm if begin else servers.retire)(commands)
        self.admission.memory = self.memory - sum(servers.held for servers in self.servers.values())

    def _settle(self) -> None:
        """Skip what is up to date. In the plan's order, so that one pass finds all of it."""
        for step in list(self.waiting.values()):
            if step.name in self.ready or step.name in self.running or not all(n in self.done for n in step.needs):
                continue
            identity = self._identity(step)
            if record := self._known(step, identity):
                self.outputs.unmade.add(step.name)
                self._finish(step, record)
            else:
                self.ready[step.name] = identity

    def _known(self, step: Step, identity: str) -> Record | None:
        """The step's record where its outputs stand here, or could be taken from another build."""
        folder, gone = self.work / step.name, self.outputs.gone(step)
        record = read_record(folder)
        if record and record.identity == identity and whole(folder, record, self.digests, gone):
            return record
        return self.store.take(identity, folder, self.digests, gone) if self.store else None

    def _finish(self, step: Step, record: Record) -> None:
        del self.waiting[step.name]
        self.done[step.name] = record
        for name in self.outputs.doubted(step, record) & set(self.done):
            self.waiting[name] = self.outputs.steps[name]
            del self.done[name]
        for settled in self.outputs.settle(step, self.done):
            self.events.skipped(settled)

    def _revive(self) -> bool:
        """Of a step that is to run, make what it reads and what is gone wait to be made again. Whether there is any."""
        found = {n for name in self.ready for n in self.outputs.lacking(self.waiting[name], self.done)}
        found = {name for name in found if not self.outputs.followers(name) & set(self.running)}
        found = {name for name in found if not self.outputs.restore(name, self.done[name])}
        for name in found:
            self.waiting[name] = self.outputs.revive(name, self.done.pop(name))
        for name in list(self.ready):
            if found & set(self.waiting[name].needs):
                del self.ready[name]
        return bool(found)

    def _start(self) -> None:
        while len(self.running) < self.jobs:
            ready = [s for s in self.plan.steps if s.name in self.ready and not self.outputs.lacking(s, self.done)]
            step = self.admission.first(ready, [job.step for job in self.running.values()])
            if not step:
                break
            self._launch(step)

    def _launch(self, step: Step) -> None:
        if step.name in self.gates:
            self.gates[step.name]()
        kernels = self.kernels if step.where == COMPILER else None
        runner = self.runners[step.where]
        watch = None if runner.docker else self.watch
        launcher = Launcher(runner, self.servers.get(step.where), self.env, kernels, watch)
        taker = self.work / f"{step.name}.part" if step.takes else None
        changed = partial(self._changed, self._read(step), taker)
        identity = self.ready.pop(step.name)
        words = (step, launcher, identity, (self.work, self.logs), self.digests, self.results, changed)
        job = (ClusterJob if self.cluster else Job)(*words)
        if isinstance(job, ClusterJob) and self.cluster:
            job.cluster = self.cluster
        self.running[step.name] = job
        job.start()

    def _identity(self, step: Step) -> str:
        inputs = (self._input(name) for name in step.inputs)
        return combine((step.words, json.dumps(step.outputs), self.runners[step.where].identity, *inputs))

    def _input(self, name: str) -> str:
        if name.startswith("/"):
            try:
                digest = self.digests.path(Path(name))
            except FileNotFoundError as error:
                raise UserError("is not there", name, "give MODEL=/path/to/checkpoint") from error
            if self.sources.setdefault(name, digest) != digest:
                self._explain(Failure("", changed=name))
            return digest
        step, _, file = name.partition("/")
        outputs = self.done[step].outputs
        return outputs[file][1] if file else combine(f"{name} {digest}" for name, (_, digest) in outputs.items())

    def _read(self, step: Step) -> list[tuple[str, str]]:
        """The files and folders that a step reads, with their digests."""
        found = [(name, self.sources[name]) for name in step.inputs if name.startswith("/")]
        return found + [(str(path), digest) for _, path, digest in self.outputs.read(step, self.done)]

    def _changed(self, read: Iterable[tuple[str, str]], taker: Path | None = None) -> str:
        """The first of these that is not what it was; empty where all are. `taker`: the folder of a step that may have
        taken some."""
        taken = parts.taken(taker) if taker else {}
        for name, digest in read:
            try:
                if (taken.get(name) or self.digests.path(Path(name))) != digest:
                    return name
            except OSError:
                return name
        return ""
