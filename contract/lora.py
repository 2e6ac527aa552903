"""Adapters as inputs of a layer's nets."""

from __future__ import annotations

from dataclasses import dataclass

# How the inputs begin that hold an adapter.
LORA = "lora_"


@dataclass(frozen=True)
class Adapted:
    """A linear module of each layer that a LoRA adapter changes at run time: `rank` rows of `inputs` channels, and as
    many of `outputs`, as two inputs of the layer's nets. Zeros change nothing."""

    name: str
    inputs: int
    rank: int
    outputs: int

    @property
    def a(self) -> str:
        return f"{LORA}a_{self.name}"

    @property
    def b(self) -> str:
        return f"{LORA}b_{self.name}"

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, int]], ...]:
        """Of both inputs, in their order."""
        return (self.a, (self.rank, self.inputs)), (self.b, (self.rank, self.outputs))
