"""Runs steps on a Ray cluster: each is a task, on whichever node has a core and the memory for it.

Everything else is as on one machine: the same plan, identities, records and cache, kept by the process that builds.
All nodes must see the build folder, the checkpoint and both environments under the same paths. Where a worker or its
node dies, Ray runs the step again; each attempt has a folder of its own, so that what is left of one cannot spoil
another.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from compile.job import Failure, Job, reason_of, tail
from contract.errors import UserError

EXTRA = "pip install 'hf2bmodel[ray]'"


class Cluster:
    """A connection to the cluster at `address`; None: a cluster of this machine alone, which ends with the build.

    `jobs`: its cores. UserError where Ray is not installed, or does not answer."""

    def __init__(self, address: str | None = None) -> None:
        self._ray = _import()
        own = not self._ray.is_initialized()
        try:
            if own:
                words: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
                self._ray.init(log_to_driver=False, logging_level="ERROR", **words)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"no Ray cluster there ({reason})", address or "ray", "start one: `ray start --head`"
            ) from error
        self._own = own
        self.jobs = int(self._ray.cluster_resources().get("CPU", 1))
        self._most = min((int(n["Resources"].get("memory", 0)) for n in self._ray.nodes() if n["Alive"]), default=0)
        self._task = self._ray.remote(max_retries=-1, num_cpus=1)(_worker())

    def submit(self, commands: Any, argvs: Any, env: dict[str, str], part: Path, log: Path, memory: int) -> Any:
        """Start the commands of a step; what `result` takes. `memory`: bytes; a node that has less is not chosen,
        unless all have."""
        options = {"memory": min(memory, self._most)} if self._most else {}
        return self._task.options(**options).remote(commands, argvs, env, str(part), str(log))

    def result(self, task: Any) -> tuple[str, int, int, int]:
        """Folder of the attempt that ended, how many commands went well, exit code of the next and bytes of the
        largest. RuntimeError with Ray's words where it cannot run."""
        try:
            folder, done, code, memory = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            raise RuntimeError(f"Ray: {str(error).splitlines()[0]}") from error
        return folder, done, code, memory

    def cancel(self, task: Any, force: bool) -> None:
        with contextlib.suppress(Exception):  # it has ended
            self._ray.cancel(task, force=force)

    def close(self) -> None:
        if self._own:
            self._ray.shutdown()


def require() -> None:
    """UserError where Ray is not installed."""
    _import()


def _import() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("Ray is not installed", "--executor ray", f"{EXTRA}, or leave the option out") from error
    return ray


class ClusterJob(Job):
    """A job whose commands run in a task."""

    cluster: Cluster
    may_take = False  # another attempt would lack what this one took
    _task: Any = None

    def _perform(self) -> Failure | None:
        runner, commands = self.launcher.runner, self.step.commands
        # Attempts lie beside each other, so that what a command names as ../<step> is there.
        argvs = [runner.argv(command, "{cwd}") for command in commands]
        env = {**runner.environment(), **self.launcher.env}
        self.results.put((self.step, commands[0]))
        with self._lock:
            if self._stopped:
                return Failure("stopped", commands[0])
            self._task = self.cluster.submit(commands, argvs, env, self.part, self.log, self.step.memory)
        try:
            folder, done, code, self.memory = self.cluster.result(self._task)
            shutil.rmtree(self.part)
            self.part = Path(folder)
        finally:
            for attempt in self.part.parent.glob(f"{self.step.name}.{'?' * 32}.part"):
                if attempt != self.part:
                    shutil.rmtree(attempt, ignore_errors=True)
        return Failure(reason_of(code), commands[done], tail(self.log)) if code else None

    def _signal(self, number: int) -> None:
        if self._task is not None:
            self.cluster.cancel(self._task, force=True)


def _worker() -> Any:
    """The function that a node runs. It is sent there as it is, since our code need not be importable: standard
    library only."""

    def perform(
        commands: list[list[str]], argvs: list[list[str]], env: dict[str, str], part: str, log: str
    ) -> tuple[str, int, int, int]:
        import ctypes
        import os
        import shlex
        import shutil
        import signal
        import subprocess
        import uuid

        parent = os.getpid()

        def bound() -> None:
            """End with the worker, however it ends."""
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        folder, most, code, done = f"{part[: -len('.part')]}.{uuid.uuid4().hex}.part", 0, 0, 0
        shutil.copytree(part, folder, symlinks=True)
        with open(log, "wb") as out:
            for command, argv in zip(commands, argvs, strict=True):
                out.write(f"$ {shlex.join(command)}\n".encode())
                out.flush()
                words = [word.replace("{cwd}", folder) for word in argv]
                try:
                    started = subprocess.Popen(
                        words,
                        cwd=folder,
                        env=env,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        preexec_fn=bound,
                    )
                except OSError as error:
                    out.write(f"{words[0]} does not start: {error.strerror}\n".encode())
                    code = 127
                    break
                _, status, usage = os.wait4(started.pid, 0)
                started.returncode = code = os.waitstatus_to_exitcode(status)
                most = max(most, usage.ru_maxrss * 1024)
                if code:
                    break
                done += 1
        return folder, done, code, most

    return perform
