"""Which step may start beside those that run: as many as memory and disk hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from compile.ledger import Ledger
from compile.steps import Plan, Step


class Admission:
    """`memory`: bytes that the steps of `plan` may have together. `outputs`: what lies on the disk. `done`: the names
    of the steps that are, as they become it."""

    def __init__(self, plan: Plan, outputs: Ledger, done: Collection[str], memory: int) -> None:
        self.memory = memory
        self._room, self._outputs, self._done = plan.room, outputs, done
        # What the whole is made of, with the steps that only it is made by.
        parts = dict.fromkeys(name for step in plan.steps if step.takes for name in step.needs)
        self._parts = {outputs.steps[name]: self._makers(name) for name in parts}

    def first(self, ready: Sequence[Step], running: Sequence[Step]) -> Step | None:
        """Of the steps that could start, in the plan's order, the first that there is room for. One of them where none
        is running, however large it is. While one waits for memory, none starts whose outputs would only lie there:
        writing weights takes little of it, and would be done for all layers before the net of the first."""
        waiting, hungry = None, False
        for step in ready:
            if not running:
                return step
            if step.memory + sum(one.memory for one in running) > self.memory:
                hungry = True
                continue
            if hungry and step.passing and not self._frees(step) and not self._leads(step, running):
                continue
            if not self._holds(step, running):
                waiting = waiting or step
            elif not waiting or self._frees(step) or self._leaves(step, waiting, running):
                return step
        return None

    def _makers(self, name: str) -> frozenset[str]:
        """The steps that `name` follows from and that make what passes, and itself."""
        found, new = {name}, {name}
        while new := {need for one in new for need in self._outputs.steps[one].needs if self._passes(need)} - found:
            found |= new
        return frozenset(found)

    def _passes(self, name: str) -> bool:
        return bool(self._outputs.steps[name].passing)

    def _holds(self, step: Step, running: Sequence[Step]) -> bool:
        lying = self._outputs.held + sum(one.room for one in running)
        return not self._room or not step.room or lying + step.room <= self._room

    def _frees(self, step: Step) -> bool:
        """Whether it reads what passes, so that it makes room in the end."""
        return any(map(self._passes, step.needs))

    def _leads(self, step: Step, running: Sequence[Step]) -> bool:
        """Whether one of those that read what it makes could start next."""
        near = {*self._done, step.name, *(one.name for one in running)}
        free = self.memory - sum(one.memory for one in running)
        readers = map(self._outputs.steps.__getitem__, self._outputs.readers[step.name])
        return any(near.issuperset(one.needs) and one.memory <= free for one in readers)

    def _leaves(self, step: Step, waiting: Step, running: Sequence[Step]) -> bool:
        """Whether there will be room after `step` for `waiting`, which the disk does not hold now. Else the parts of
        many small steps would let a large one start when all of them lie there."""
        begun = {*self._done, *(one.name for one in running)}
        coming = sum(
            part.room
            for part, makers in self._parts.items()
            if part.name not in self._done and waiting.name not in makers and makers & begun
        )
        return self._outputs.kept_until(waiting) + coming + step.room + waiting.room <= self._room
