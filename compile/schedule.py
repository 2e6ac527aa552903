"""How the steps of a plan follow each other on one machine, if each takes what is said: time, and peaks of memory and
disk. Admitted as compile.executor admits them, with the servers that it keeps (compile.forks)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from compile import forks
from compile.admission import Admission
from compile.ledger import Ledger
from compile.steps import Plan, Step

OWN = 60 * 10**6  # bytes of the process that builds
Span = tuple[float, float, int]  # from, to, bytes


@dataclass(frozen=True)
class Cost:
    """`memory`: bytes of all processes of a step, and `disk`: bytes written by it, in equal parts of its `seconds`."""

    seconds: float
    memory: Sequence[int]
    disk: Sequence[int]


@dataclass(frozen=True)
class Course:
    """`seconds`: on the clock. `memory`, `disk`: bytes, at their peaks. `admitted`: bytes of memory that steps which
    run at once and the servers may need by the plan, at most."""

    seconds: float
    memory: int
    disk: int
    admitted: int


def course(plan: Plan, costs: Mapping[str, Cost], jobs: int, memory: int) -> Course:
    """Of all steps of `plan`. `memory`: bytes that they may have together, and the servers."""
    machine = _Machine(plan, memory)
    while machine.waiting or machine.running:
        machine.start(costs, jobs)
        machine.finish()
    held = [(0.0, end, forks.MEMORY[name]) for name, end in machine.servers.items()]
    made = {step.name: step.made for step in plan.steps}
    lying = [(end, machine.gone.get(name, math.inf), made[name]) for name, end in machine.ended.items()]
    for name, start in machine.started.items():
        held += _spans(costs[name].memory, costs[name].seconds, start)
        lying += _spans(costs[name].disk, costs[name].seconds, start)
    return Course(machine.clock, OWN + _peak(held), _peak(lying), OWN + machine.admitted)


@dataclass
class _Machine:
    plan: Plan
    memory: int
    clock: float = 0.0
    admitted: int = 0
    started: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)  # when the outputs are, of those that pass
    servers: dict[str, float] = field(default_factory=dict)  # when each ends
    running: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waiting = {step.name: step for step in self.plan.steps}
        self.ledger, self.wanted = Ledger(self.plan.steps), set[str]()
        self.admission = Admission(self.plan, self.ledger, self.ended, self.memory)

    def start(self, costs: Mapping[str, Cost], jobs: int) -> None:
        self._serve()
        while len(self.running) < jobs:
            ready = [step for step in self.waiting.values() if self.ended.keys() >= set(step.needs)]
            step = self.admission.first(ready, self._now())
            if not step:
                break
            del self.waiting[step.name]
            self.started[step.name] = self.clock
            heapq.heappush(self.running, (self.clock + costs[step.name].seconds, step.name))
        held = self.memory - self.admission.memory
        self.admitted = max(self.admitted, min(self.memory, held + sum(step.memory for step in self._now())))

    def finish(self) -> None:
        """Go on to the end of the step that ends next."""
        self.clock, name = heapq.heappop(self.running)
        self.servers.update(dict.fromkeys(self.wanted, self.clock))
        step = self.ledger.steps[name]
        self.ended[name] = self.clock
        self.ledger.lay(name, step.made)
        for one in (name, *step.needs):
            if self.ledger.steps[one].passing and self.ended.keys() >= set(self.ledger.readers[one]):
                self.ledger.lay(one, 0)
                self.gone[one] = self.clock

    def _now(self) -> list[Step]:
        return [self.ledger.steps[name] for _, name in self.running]

    def _serve(self) -> None:
        steps = (*self.waiting.values(), *self._now())
        self.wanted = {forks.server_of(command) for step in steps for command in step.commands} - {""}
        self.admission.memory = self.memory - sum(forks.MEMORY[name] for name in self.wanted)


def _spans(levels: Sequence[int], seconds: float, start: float) -> Iterator[Span]:
    part = seconds / len(levels)
    return ((start + part * i, start + part * (i + 1), size) for i, size in enumerate(levels))


def _peak(spans: Iterable[Span]) -> int:
    changes = sorted(change for start, end, size in spans for change in ((start, size), (end, -size)))
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
