"""Which outputs of a plan's steps lie in the build folder, and which have passed: of the latter only digests remain.

Outputs that pass are removed when the last step that reads them is done. A step whose outputs are gone is as good as
done, until a step that reads them has to run. Then they are taken out of a bmodel into which they went
(compile.parts), or the step is revived: it runs for their sake.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from compile import parts
from compile.job import Record
from compile.ledger import Ledger
from compile.steps import Plan, Step


class Outputs(Ledger):
    """`unmade`: steps that were up to date, of which it is not settled yet whether they have to run after all.
    `revived`: those that had to, with what they had made before."""

    def __init__(self, plan: Plan, work: Path, wholes: Iterable[Path]) -> None:
        """`wholes`: folders of bmodels that outputs may have gone into, beside those of this build."""
        super().__init__(plan.steps)
        self.work = work
        self._wholes = [*(work / step.name for step in plan.steps if step.takes), *wholes]
        self.unmade: set[str] = set()
        self.revived: dict[str, Record] = {}

    def gone(self, step: Step) -> Callable[[str], bool]:
        """Which of its outputs may be absent."""
        return lambda output: step.name not in self.revived and step.passes(output)

    def read(self, step: Step, done: Mapping[str, Record]) -> Iterator[tuple[str, Path, str]]:
        """What a step reads of others' outputs: the other's name, the file and its digest."""
        for name in step.inputs:
            made, _, file = name.partition("/")
            if made:
                outputs = done[made].outputs
                yield from ((made, self.work / made / o, outputs[o][1]) for o in ([file] if file else outputs))

    def lacking(self, step: Step, done: Mapping[str, Record]) -> set[str]:
        """The steps whose outputs `step` would read and are gone."""
        passing = [name for name in step.needs if self.steps[name].passing]
        return {name for name, path, _ in self.read(step, done) if name in passing and not path.is_file()}

    def restore(self, name: str, record: Record) -> bool:
        """Whether all outputs of a step are there, now that what is gone was taken out of the bmodels that it went
        into, as far as it is in any."""
        for output, (_, digest) in record.outputs.items():
            path = self.work / name / output
            entry, whole = self._parts.get(digest, (None, path))
            if not path.exists() and not (entry and whole.is_file() and parts.restore(entry, whole, path)):
                return False
        self.lay(name, sum(size for size, _ in record.outputs.values()))
        return True

    @cached_property
    def _parts(self) -> dict[str, tuple[parts.Entry, Path]]:
        return parts.index(self._wholes)

    def revive(self, name: str, record: Record) -> Step:
        self.revived[name] = record
        self.unmade.discard(name)
        self.lay(name, 0)
        return self.steps[name]

    def doubted(self, step: Step, record: Record) -> set[str]:
        """The steps that follow from outputs of `step` that are no more: it ran again, and gave others."""
        before = self.revived.get(step.name)
        return self.followers(step.name) if before and before.outputs != record.outputs else set()

    def settle(self, step: Step, done: Mapping[str, Record]) -> list[Step]:
        """`step` is done: remove what nobody will read any more. The steps of which it is now certain that they do not
        have to run."""
        outputs = done[step.name].outputs
        here = self.work / step.name
        lying = (size for name, (size, _) in outputs.items() if not step.passes(name) or (here / name).exists())
        self.lay(step.name, sum(lying))
        certain, look = [], [step.name, *step.needs]
        for name in look:
            readers = self.readers[name]
            open_ = any(one not in done or one in self.unmade for one in readers)
            if name not in done or (self.steps[name].passing and open_):
                continue
            self._remove(self.steps[name], done[name])
            if name in self.unmade:
                self.unmade.discard(name)
                certain.append(self.steps[name])
                look += self.steps[name].needs
        return certain

    def _remove(self, step: Step, record: Record) -> None:
        for name in filter(step.passes, record.outputs):
            with contextlib.suppress(OSError):
                (self.work / step.name / name).unlink(missing_ok=True)
        left = ((self.work / step.name / name, size) for name, (size, _) in record.outputs.items())
        self.lay(step.name, sum(size for path, size in left if path.exists()))
