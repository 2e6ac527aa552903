"""What lies in a build folder of the outputs of a plan's steps: bytes, and until when."""

from __future__ import annotations

from collections.abc import Sequence

from compile.steps import Step


class Ledger:
    """`steps`: by name. `readers`: the names of the steps that read what a step makes, by its name."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = {step.name: step for step in steps}
        self.readers: dict[str, list[str]] = {name: [] for name in self.steps}
        for step in steps:
            for name in step.needs:
                self.readers.setdefault(name, []).append(step.name)
        self._sizes: dict[str, int] = {}

    def lay(self, name: str, size: int) -> None:
        """Of what the step made, `size` bytes lie there from now on."""
        self._sizes[name] = size

    @property
    def held(self) -> int:
        """Bytes of outputs that lie there."""
        return sum(self._sizes.values())

    def kept_until(self, step: Step) -> int:
        """Of these, bytes that lie there at least until `step` is done: it reads them, or one that follows from it, or
        they stay."""
        readers = {step.name, *self.followers(step.name)}
        kept = (name for name, one in self.steps.items() if not one.passing or readers.intersection(self.readers[name]))
        return sum(self._sizes.get(name, 0) for name in kept)

    def followers(self, name: str) -> set[str]:
        """The steps that depend on it, however far away."""
        found, new = set[str](), {name}
        while new := {reader for one in new for reader in self.readers[one]} - found:
            found |= new
        return found
