"""KV caches on the device: of a batch of conversations, one behind the other in the two buffers of each layer.

In a step of several conversations, each at a position of its own, the nets leave the new k and v side by side; from
there they go to their places by way of the host, since one simulator does not copy on the device (bm1688).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from contract.graphs import GraphSpec, TensorSpec
from runtime.device import Buffer, Device, bytes_of
from runtime.nets import CACHED

Layers = list[tuple[Buffer, Buffer]]  # k and v of each


class Batch:
    """`whole`: all conversations. `lengths`: by seat, the positions in use."""

    def __init__(self, device: Device, steps: Sequence[GraphSpec], positions: int) -> None:
        """`steps`: each layer's decode net, as each device sees it. `positions`: room for each conversation, at least
        as many as they see."""
        self._device, self._positions = device, positions
        self.whole: Layers = []
        for step in steps:
            tensors = {t.name: t for t in step.inputs}
            held = [tensors[name] for name in CACHED]
            k, v = (device.allocate(bytes_of(t) // t.shape[1] * positions) for t in held)
            self.whole.append((k, v))
        self.lengths = [0] * held[0].shape[0]
        for mem in itertools.chain(*self.whole):
            # Masked positions weigh 0, and 0 times the NaN that stale memory may hold is NaN.
            device.write(mem, np.zeros(mem.size, np.uint8))

    def of(self, seat: int) -> Layers:
        """One conversation's own part."""
        return [(self._behind(k, seat, 0), self._behind(v, seat, 0)) for k, v in self.whole]

    def behind(self, seat: int) -> Layers:
        """What is not in use yet of one conversation's part."""
        past = self.lengths[seat]
        return [(self._behind(k, seat, past), self._behind(v, seat, past)) for k, v in self.whole]

    def free(self) -> None:
        for mem in itertools.chain(*self.whole):
            self._device.free(mem)

    def _behind(self, mem: Buffer, seat: int, past: int) -> Buffer:
        share = mem.size // len(self.lengths)
        offset = share // self._positions * past
        return mem.part(share * seat + offset, share - offset)


class Fresh:
    """`layers`: where the nets of a step of several conversations leave new k and v."""

    def __init__(self, device: Device, steps: Sequence[GraphSpec]) -> None:
        self._device, sizes = device, [bytes_of(t) for step in steps for t in step.outputs[1:]]
        self._mem = device.allocate(sum(sizes))  # one buffer, read at once
        parts = [self._mem.part(end - size, size) for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]
        self.layers: Layers = list(zip(parts[::2], parts[1::2], strict=True))

    def into(self, batch: Batch, seats: Iterable[int]) -> None:
        """To the first positions that these conversations have free."""
        values = self._device.read(self._mem, TensorSpec("fresh", (self._mem.size,), "uint8"))
        parts = np.split(values, np.cumsum([mem.size for mem in itertools.chain(*self.layers)])[:-1])
        for seat in seats:
            for part, place in zip(parts, itertools.chain(*batch.behind(seat)), strict=True):
                self._device.write(place, part.reshape(len(batch.lengths), -1)[seat])
