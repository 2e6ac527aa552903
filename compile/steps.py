"""What a plan is made of. compile.plan makes plans, compile.executor runs them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

from contract.graphs import GraphSpec

EXPORTER, COMPILER = "exporter", "compiler"
TRANSFORM, DEPLOY = "model_transform.py", "model_deploy.py"
HERE = str(Path(__file__).parent)


@dataclass(frozen=True)
class Step:
    """Commands run one after the other in a folder of the step's own, `work/<name>`.

    `inputs`: "<step>/<file>", "<step>/" for all that a step made, or an absolute path (a folder stands for the files
    in it). `outputs`: file names or patterns in the step's folder; each must match, and what none matches is dropped.
    `where`: the environment, EXPORTER or COMPILER. `memory`: bytes the step may need at its peak. `disk`: bytes that it
    may write, of which `made` are its outputs. `ahead`: bytes that there must be room for as well before it begins, for
    the first step that reads what it makes. `passing`: patterns of outputs that go as soon as all the steps that read
    them are done. `takes`: its command may take the passing outputs that it reads, as compile.parts says.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    where: str
    memory: int = 0
    disk: int = 0
    made: int = 0
    ahead: int = 0
    passing: tuple[str, ...] = ()
    takes: bool = False

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """The steps whose files it reads."""
        return tuple(dict.fromkeys(i.partition("/")[0] for i in self.inputs if not i.startswith("/")))

    @cached_property
    def words(self) -> str:
        """The commands, as far as they decide the outputs. Of what the digest of inputs or tools tells the content, it
        does not matter where it lies: a checkpoint or this program may be moved."""
        places = {name: f"input {number}" for number, name in enumerate(self.inputs) if name.startswith("/")}
        return json.dumps([[places.get(w) or w.removeprefix(f"{HERE}/") for w in c] for c in self.commands])

    @property
    def room(self) -> int:
        """Bytes that must be free on the disk before it begins."""
        return self.disk + self.ahead

    @property
    def deploys(self) -> bool:
        return any(command[0] == DEPLOY for command in self.commands)

    @property
    def compiles(self) -> bool:
        """Whether it runs a tool of the compiler's itself."""
        return any(command[0] in (TRANSFORM, DEPLOY) for command in self.commands)

    def passes(self, output: str) -> bool:
        return any(fnmatch(output, pattern) for pattern in self.passing)


@dataclass(frozen=True)
class Plan:
    """`folder`: the build folder. `steps`: each after those it needs; of steps that could start, the first goes
    first. `nets`: every net, in the order of execution. `disk`: bytes that the folder may grow to. `store`: where
    finished steps are shared with other builds (compile.store); None where they are not. `room`: bytes of outputs and
    of running steps' `room` beyond which no further step starts while others run; 0 for no such bound. `beside`: files
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
        """The same, with all outputs kept; what takes others' copies them."""
        made = {step.name: step.made for step in self.steps if step.passing}

        def kept(step: Step) -> Step:
            size = sum(made.get(name, 0) for name in step.needs) if step.takes else 0
            return replace(step, passing=(), takes=False, disk=size or step.disk, made=size or step.made)

        steps = tuple(map(kept, self.steps))
        return replace(self, steps=steps, disk=self.disk + sum(made.values()), room=0)
