"""Prefill and decode over the nets of a decoder, with the KV cache kept on the device. Worker process only.

One instance serves any number of batches, each of as many conversations as the bmodel takes on in one decode step: of
most, one. Each conversation has its own cache, all share the working buffers, because only one launch may run at a time
anyway. The hidden states never leave the device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contract import graphs
from contract.errors import UserError
from contract.graphs import MASKED
from contract.lora import LORA
from runtime.cache import Batch, Fresh, Layers
from runtime.device import Buffer, Device, bytes_of
from runtime.embedding import Table
from runtime.half import Array, from_storage, to_storage
from runtime.nets import contract, sizes

# What one step gives: the likeliest token, float32 logits [V] (None where the head gives only the token), and how
# many positions of the cache are in use.
Result = tuple[int, Array | None, int]


@dataclass(frozen=True)
class Shown:
    """What a prompt shows: `features`, float32 [n, H], deepstack features behind the tower's own, and where in the
    prompt each of the n rows stands. `together`: those of one picture see each other, also those behind."""

    features: list[Array]
    places: Array
    together: bool = False

    def runs(self) -> list[tuple[int, int]]:
        """Beginning and end of each run of neighbouring places."""
        parts = np.split(self.places, np.flatnonzero(np.diff(self.places) != 1) + 1)
        return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]

    def end(self, start: int, end: int) -> int:
        """Where a chunk from `start` to `end` must stop so that rows which see each other stay together."""
        cut = [begin for begin, stop in self.runs() if self.together and begin < end < stop]
        if cut and cut[0] <= start:
            what = f"a picture fills more than the {end - start} positions that are prefilled at once"
            raise UserError(what, remedy="build with a larger INPUT")
        return cut[0] if cut else end

    def part(self, start: int, count: int) -> Shown | None:
        """Of `count` positions from `start` on, counted from there; None where there is nothing to see."""
        inside = (self.places >= start) & (self.places < start + count)
        if not inside.any():
            return None
        return Shown([f[inside] for f in self.features], self.places[inside] - start, self.together)


class Decoder:
    """Batches go by number, the conversations of each by their seats. Calls are not checked here: ids and lengths must
    fit (runtime.session sees to it)."""

    def __init__(self, device: Device, table: Table | None = None) -> None:
        """`table`: of a bmodel without nets for the embedding. UserError where the bmodel is no decoder of the
        contract."""
        self._device, self._table = device, table
        self._specs = {name: net.spec for name, net in device.nets.items()} | (table.nets if table else {})
        self._sizes = sizes(self._specs)
        block, cache = self._specs[graphs.block_name(0)], self._specs[graphs.block_cache_name(0)]
        tensors = {t.name: t for t in (*block.inputs, *cache.inputs)}  # where both have it, the decode step's
        names = [t.name for t in contract(graphs.BLOCK_CACHE).inputs]
        batch = self._sizes.batch
        self._axes = math.prod(tensors[names[1]].shape) // batch  # of a position
        self._masked = to_storage(np.full(1, MASKED), tensors[names[2]].dtype)[0]
        prompt, whole = self._sizes.prefill_length, self._sizes.seq_length
        self._hidden, self._hidden_bytes = tensors[names[0]], bytes_of(tensors[names[0]]) // batch
        ids = (self._specs[name].inputs[0] for name in (graphs.EMBEDDING, graphs.EMBEDDING_CACHE))
        self._ids_mem = device.allocate(max(map(bytes_of, ids)))
        self._position_mem = device.allocate(bytes_of(tensors[names[1]]) * prompt)
        # A chunk over a history also writes the k and v of its padding, which may lie beyond the last position.
        self._cached = whole + prompt if self._sizes.history else whole
        self._mask_mem = device.allocate(max(prompt * self._cached, batch * (whole + 1)) * self._masked.itemsize)
        # The head takes the states of a whole batch, also behind a prompt's last position.
        self._hidden_mems = [device.allocate(self._hidden_bytes * (prompt + batch - 1)) for _ in range(2)]
        for mem in self._hidden_mems:
            device.write(mem, np.zeros(mem.size, np.uint8))
        self._added_mem = device.allocate(self._hidden_bytes * (prompt if graphs.ADD in self._specs else 1))
        self._head_mem = device.allocate(bytes_of(self._specs[graphs.LM_HEAD].outputs[0]))
        self._steps = [device.nets[graphs.block_cache_name(layer)].share for layer in range(self._sizes.layers)]
        self._fresh = Fresh(device, self._steps) if batch > 1 else None
        self._lora = [
            {t.name: device.allocate(bytes_of(t)) for t in step.inputs if t.name.startswith(LORA)}
            for step in self._steps
        ]
        self.adapt({})
        self._batches: dict[int, Batch] = {}
        self._numbers = itertools.count()

    def adapt(self, values: Mapping[int, Mapping[str, Array]]) -> None:
        """Puts an adapter's matrices in: by layer and input, in storage type. What is not named is zeros again."""
        for layer, mems in enumerate(self._lora):
            for name, mem in mems.items():
                given = values.get(layer, {}).get(name)
                self._device.write(mem, np.zeros(mem.size, np.uint8) if given is None else given)

    def open(self) -> int:
        """A new batch's number; all its seats are empty."""
        number = next(self._numbers)
        self._batches[number] = Batch(self._device, self._steps, self._cached)
        return number

    def close(self, number: int) -> None:
        self._batches.pop(number).free()

    def extend(
        self, number: int, seat: int, past: int, ids: Sequence[int], positions: Array, shown: Shown | None = None
    ) -> Result:
        """Keeps the first `past` positions of a conversation and takes `ids` (1 to prompt_length of them) in behind
        them, in chunks of prefill_length. `positions` [axes, T] int32: what each net is told of them."""
        batch, most = self._batches[number], self._sizes.prefill_length
        batch.lengths[seat] = past
        start = 0
        while start < len(ids):
            end = min(start + most, len(ids))
            end = shown.end(start, end) if shown else end
            chunk, seen = ids[start:end], shown and shown.part(start, end - start)
            hidden = self._chunk(batch, seat, chunk, positions[:, start:end], seen)
            batch.lengths[seat] += len(chunk)
            start = end
        last = hidden.part((len(chunk) - 1) * self._hidden_bytes, self._hidden_bytes * self._sizes.batch)
        return (*self._head(last)[0], batch.lengths[seat])

    def _chunk(self, batch: Batch, seat: int, ids: Sequence[int], places: Array, shown: Shown | None) -> Buffer:
        """At most prefill_length further positions. Their hidden states."""
        past, n = batch.lengths[seat], len(ids)
        kind = graphs.BLOCK_KV if past else graphs.BLOCK
        dynamic = self._device.nets[graphs.layer_name(kind, 0)].dynamic
        rows = n if dynamic else self._sizes.prefill_length
        cached = past if dynamic or not past else self._sizes.seq_length  # places of the mask before the chunk's own
        mask = np.full((rows, cached + rows), self._masked)
        mask[:n, :past] = 0
        mask[:n, cached : cached + n] = np.triu(mask[:n, cached : cached + n], 1)
        for begin, end in shown.runs() if shown and shown.together else ():
            mask[begin:end, cached + begin : cached + end] = 0
        positions = np.zeros((self._axes, rows), np.int32)
        positions[:, :n] = places
        padded = np.zeros((1, self._sizes.prefill_length), np.int32)
        padded[0, :n] = ids
        caches = batch.of(seat), batch.behind(seat)
        return self._through(*caches, graphs.EMBEDDING, kind, padded, positions, mask, n, past, shown)

    def decode(self, number: int, tokens: Mapping[int, tuple[int, int]]) -> dict[int, Result]:
        """Appends a token to some conversations of a batch, none of which may be full: by seat, the token and its
        position. The other seats are idle."""
        batch, seats = self._batches[number], self._sizes.batch
        mask = np.full((seats, self._sizes.seq_length + 1), self._masked)
        mask[:, -1] = 0  # the last place is the new step's own
        positions = np.zeros((seats, self._axes), np.int32)
        ids = np.zeros((seats, 1), np.int32)
        for seat, (token, place) in tokens.items():
            ids[seat], mask[seat, : batch.lengths[seat]], positions[seat] = token, 0, place
        new = self._fresh.layers if self._fresh else batch.behind(0)
        hidden = self._through(batch.whole, new, graphs.EMBEDDING_CACHE, graphs.BLOCK_CACHE, ids, positions, mask)
        if self._fresh:
            self._fresh.into(batch, tokens)
        found = self._head(hidden)
        for seat in tokens:
            batch.lengths[seat] += 1
        return {seat: (*found[seat], batch.lengths[seat]) for seat in tokens}

    def _through(
        self,
        cache: Layers,
        new: Layers,
        embedding: str,
        kind: str,
        ids: Array,
        positions: Array,
        mask: Array,
        length: int | None = None,
        past: int = 0,
        shown: Shown | None = None,
    ) -> Buffer:
        """Embedding and all blocks over `cache`; k and v go to `new`. The hidden states' buffer."""
        for mem, values in ((self._position_mem, positions), (self._mask_mem, mask)):
            self._device.write(mem, values)
        hidden, spare = self._hidden_mems
        self._embed(embedding, ids, hidden, length)
        if shown:
            self._splice(shown, hidden)
        for layer, (held, fresh) in enumerate(zip(cache, new, strict=True)):
            inputs = [hidden, self._position_mem, self._mask_mem, *(() if kind == graphs.BLOCK else held)]
            name = graphs.layer_name(kind, layer)
            self._launch(name, kind, inputs, [spare, *fresh], length, past, self._lora[layer])
            hidden, spare = spare, hidden
            if shown and layer + 1 < len(shown.features):
                self._add(shown, layer + 1, hidden, spare)
                hidden, spare = spare, hidden
        return hidden

    def _embed(self, net: str, ids: Array, hidden: Buffer, length: int | None) -> None:
        """Hidden states of `ids` into `hidden`: by the bmodel's net, or by the host's table."""
        if self._table:
            self._device.write(hidden, self._table.states(ids))
            return
        self._device.write(self._ids_mem, ids)
        self._launch(net, net, [self._ids_mem], [hidden], length)

    def _splice(self, shown: Shown, hidden: Buffer) -> None:
        """The features take the places of their placeholders' embeddings, run by run of neighbours."""
        rows = to_storage(shown.features[0], self._hidden.dtype)
        done = 0
        for begin, end in shown.runs():
            part = np.ascontiguousarray(rows[done : done + end - begin])
            self._device.write(hidden.part(begin * self._hidden_bytes, part.nbytes), part)
            done += end - begin

    def _add(self, shown: Shown, number: int, hidden: Buffer, out: Buffer) -> None:
        """Deepstack features onto the hidden states of their placeholders."""
        spread = np.zeros((self._sizes.prefill_length, self._hidden.shape[-1]), np.float32)
        spread[shown.places] = shown.features[number]
        self._device.write(self._added_mem, to_storage(spread, self._hidden.dtype))
        self._launch(graphs.ADD, graphs.ADD, [hidden, self._added_mem], [out], None)

    def _head(self, hidden: Buffer) -> list[tuple[int, Array | None]]:
        """Of the states of a batch, one behind the other."""
        self._launch(graphs.LM_HEAD, graphs.LM_HEAD, [hidden], [self._head_mem], None)
        out = self._specs[graphs.LM_HEAD].outputs[0]
        values = from_storage(self._device.read(self._head_mem, out), out.dtype).reshape(self._sizes.batch, -1)
        if out.dtype == graphs.INT32:
            return [(int(row[0]), None) for row in values]
        return [(int(row.argmax()), row) for row in values]

    def _launch(
        self,
        net: str,
        kind: str,
        inputs: Sequence[Buffer],
        outputs: Sequence[Buffer],
        length: int | None,
        past: int = 0,
        more: Mapping[str, Buffer] | None = None,
    ) -> None:
        """Buffers in the contract's order, and `more` by name."""
        top1 = self._specs[net].outputs[0].dtype == graphs.INT32
        known = contract(kind, top1)
        ins = {t.name: mem for t, mem in zip(known.inputs, inputs, strict=True)} | dict(more or {})
        outs = {t.name: mem for t, mem in zip(known.outputs, outputs, strict=True)}
        self._device.launch(net, ins, outs, length, past)
