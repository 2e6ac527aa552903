"""What a plan is made of. compile.plan makes plans, compile.executor runs them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from contract.graphs import GraphSpec

EXPORTER, COMPILER = "exporter", "compiler"
DEPLOY = "model_deploy.py"


@dataclass(frozen=True)
class Step:
    """Commands run one after the other in a folder of the step's own, `work/<name>`.

    `inputs`: "<step>/<file>", "<step>/" for all that a step made, or an absolute path (a folder stands for the files
    in it). `outputs`: file names or patterns in the step's folder; each must match, and what none matches is dropped.
    `where`: the environment, EXPORTER or COMPILER. `memory`: bytes the step may need at its peak. `disk`: bytes that it
    may write. `passing`: patterns of outputs that go as soon as all the steps that read them are done.
    `takes`: its command may take the passing outputs that it reads, as compile.parts says.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    where: str
    memory: int = 0
    disk: int = 0
    passing: tuple[str, ...] = ()
    takes: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The steps whose files it reads."""
        return tuple(dict.fromkeys(i.partition("/")[0] for i in self.inputs if not i.startswith("/")))

    @property
    def deploys(self) -> bool:
        return any(command[0] == DEPLOY for command in self.commands)

    def passes(self, output: str) -> bool:
        return any(fnmatch(output, pattern) for pattern in self.passing)


@dataclass(frozen=True)
class Plan:
    """`folder`: the build folder. `steps`: each after those it needs; of steps that could start, the first goes
    first. `nets`: every net, in the order of execution. `disk`: bytes that the folder may grow to. `store`: where
    finished steps are shared with other builds (compile.store); None where they are not. `room`: bytes of outputs and
    of running steps' `disk` beyond which no further step starts while others run; 0 for no such bound. `beside`: files
    that the bmodel needs beside it, "<step>/<file>"."""

    folder: Path
    steps: tuple[Step, ...]
    nets: tuple[GraphSpec, ...]
    disk: int
    store: Path | None = None
    room: int = 0
    beside: tuple[str, ...] = ()

    @property
    def bmodel(self) -> str:
        return f"{self.folder.name}.bmodel"

    def keeping(self) -> Plan:
        """The same, with all outputs kept."""
        steps = tuple(replace(step, passing=(), takes=False) for step in self.steps)
        # Of what model_deploy writes, a third stays.
        passing = (step.disk // (3 if step.deploys else 1) for step in self.steps if step.passing)
        disk = self.disk + sum(passing)
        return replace(self, steps=steps, disk=disk, room=0)
