"""Plays on one device the several that a bmodel is split over.

A simulator has one device, and libbmrt wants as many as the bmodel was built for. So the parts of each net are made
nets of their own, by leaving out of the description that they belong together, and run here one after the other, step
by step. What libbmrt copies between devices lies in the same memory here; the rest is as in its own launch.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from contract.graphs import TensorSpec
from runtime import bmodel
from runtime.bmodel import Part, Slot
from runtime.bmrt import DeviceMem, Tensor, tensor
from runtime.nets import Net, described

Launch = Callable[[str, Any, Any], None]
Key = tuple[int, str]


def parts_alone(path: Path) -> mmap.mmap:
    """The file's bytes, each part a net of its own. The file itself stays as it is."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    for place in bmodel.cascade_places(path):
        data[place : place + 2] = bytes(2)  # a field at offset 0 is absent
    return data


@dataclass(frozen=True)
class Cascade:
    """The parts of one net, by steps. `inputs`, `outputs`: the net's own, with their devices, in libbmrt's order."""

    parts: tuple[Part, ...]
    inputs: tuple[tuple[int, Slot], ...]
    outputs: tuple[tuple[int, Slot], ...]

    def net(self, name: str, dynamic: bool) -> Net:
        """The whole that the parts make. UserError where devices do not take alike."""
        ends = (self.inputs, self.outputs)
        (ins, takers), (outs, givers) = (([s.tensor for _, s in end], [device for device, _ in end]) for end in ends)
        return described(name, ins, outs, (takers, givers), dynamic)

    def inner(self) -> dict[Key, TensorSpec]:
        """What the parts hand to each other, by device and name."""
        return {(p.device, slot.tensor.name): slot.tensor for p in self.parts for slot in p.outputs if slot.inner}

    def run(self, launch: Launch, inputs: Any, outputs: Any, memory: Mapping[Key, DeviceMem]) -> None:
        """`inputs` and `outputs`: C arrays of Tensor; the outputs' shapes become what they came out as. `memory`: for
        each tensor of inner()."""
        found: dict[Key, Tensor] = {
            key: tensor(memory[key], inside.dtype, inside.shape) for key, inside in self.inner().items()
        }
        for slots, given in ((self.inputs, inputs), (self.outputs, outputs)):
            found |= {(device, slot.tensor.name): t for (device, slot), t in zip(slots, given, strict=True)}
        for part in self.parts:
            ins = _array(_from(found, part.device, slot.tensor.name) for slot in part.inputs)
            outs = _array(found[part.device, slot.tensor.name] for slot in part.outputs)
            launch(part.name, ins, outs)
            for slot, out in zip(part.outputs, outs, strict=True):
                found[part.device, slot.tensor.name].shape = out.shape


def cascades(path: Path) -> dict[str, Cascade]:
    """By name, the nets of a bmodel that are split. UserError as bmodel.read()."""
    nets: dict[str, list[Part]] = {}
    for part in bmodel.parts(path):
        nets.setdefault(part.net, []).append(part)
    return {name: _cascade(sorted(found, key=attrgetter("step"))) for name, found in nets.items()}


def _cascade(found: Sequence[Part]) -> Cascade:
    return Cascade(tuple(found), _outer(found, "inputs"), _outer(found, "outputs"))


def _outer(found: Iterable[Part], side: str) -> tuple[tuple[int, Slot], ...]:
    outer = {(p.device, s.tensor.name): (p.device, s) for p in found for s in getattr(p, side) if not s.inner}
    return tuple(sorted(outer.values(), key=lambda item: (item[0], item[1].index)))


def _from(found: Mapping[Key, Tensor], device: int, name: str) -> Tensor:
    """The device's own, else another's."""
    return found.get((device, name)) or next(t for (_, other), t in found.items() if other == name)


def _array(tensors: Iterable[Tensor]) -> Any:
    listed = list(tensors)
    return (Tensor * len(listed))(*listed)
