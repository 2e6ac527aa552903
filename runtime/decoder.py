"""Prefill and decode over the nets of a decoder, with the KV cache kept on the device. Worker process only.

One instance serves any number of conversations: each has its own cache, all share the working buffers, because only
one launch may run at a time anyway. The hidden states never leave the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contract import graphs
from contract.errors import UserError
from contract.graphs import MASKED
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


@dataclass
class Conversation:
    """`cache`: per layer its K and V buffer, of which `length` positions are in use."""

    cache: list[tuple[Buffer, Buffer]]
    length: int = 0


class Decoder:
    """Conversations go by number. Calls are not checked here: ids and lengths must fit (runtime.session sees to it)."""

    def __init__(self, device: Device, table: Table | None = None) -> None:
        """`table`: of a bmodel without nets for the embedding. UserError where the bmodel is no decoder of the
        contract."""
        self._device, self._table = device, table
        self._specs = {name: net.spec for name, net in device.nets.items()} | (table.nets if table else {})
        self._sizes = sizes(self._specs)
        block, cache = self._specs[graphs.block_name(0)], self._specs[graphs.block_cache_name(0)]
        tensors = {t.name: t for t in (*block.inputs, *cache.inputs)}  # where both have it, the decode step's
        names = [t.name for t in contract(graphs.BLOCK_CACHE).inputs]
        self._position, self._history = tensors[names[1]], names[3:]
        self._masked = to_storage(np.full(1, MASKED), tensors[names[2]].dtype)[0]
        prompt, whole = self._sizes.prefill_length, self._sizes.seq_length
        self._hidden, self._hidden_bytes = tensors[names[0]], bytes_of(tensors[names[0]])
        self._ids_mem = device.allocate(bytes_of(self._specs[graphs.EMBEDDING].inputs[0]))
        self._position_mem = device.allocate(bytes_of(self._position) * prompt)
        # A chunk over a history also writes the k and v of its padding, which may lie beyond the last position.
        self._cached = whole + prompt if self._sizes.history else whole
        self._mask_mem = device.allocate(max(prompt * self._cached, whole + 1) * self._masked.itemsize)
        self._hidden_mems = [device.allocate(self._hidden_bytes * prompt) for _ in range(2)]
        self._added_mem = device.allocate(self._hidden_bytes * (prompt if graphs.ADD in self._specs else 1))
        self._head_mem = device.allocate(bytes_of(self._specs[graphs.LM_HEAD].outputs[0]))
        self._conversations: dict[int, Conversation] = {}
        self._numbers = itertools.count()

    def open(self) -> int:
        """A new conversation's number."""
        allocate, number = self._device.allocate, next(self._numbers)
        conversation = Conversation([])
        for layer in range(self._sizes.layers):
            tensors = {t.name: t for t in self._device.nets[graphs.block_cache_name(layer)].share.inputs}
            size = {name: bytes_of(tensors[name]) // self._sizes.seq_length for name in self._history}
            k, v = (allocate(size[name] * self._cached) for name in self._history)
            conversation.cache.append((k, v))
        for mem in itertools.chain(*conversation.cache):
            # Masked positions weigh 0, and 0 times the NaN that stale memory may hold is NaN.
            self._device.write(mem, np.zeros(mem.size, np.uint8))
        self._conversations[number] = conversation
        return number

    def close(self, number: int) -> None:
        for mem in itertools.chain(*self._conversations.pop(number).cache):
            self._device.free(mem)

    def extend(
        self, number: int, past: int, ids: Sequence[int], positions: Array, shown: Shown | None = None
    ) -> Result:
        """Keeps the first `past` positions of conversation `number` and takes `ids` (1 to prompt_length of them) in
        behind them, in chunks of prefill_length. `positions` [axes, T] int32: what each net is told of them."""
        conversation, most = self._conversations[number], self._sizes.prefill_length
        conversation.length = past
        start = 0
        while start < len(ids):
            end = min(start + most, len(ids))
            end = shown.end(start, end) if shown else end
            chunk, seen = ids[start:end], shown and shown.part(start, end - start)
            hidden = self._chunk(conversation, chunk, positions[:, start:end], seen)
            conversation.length += len(chunk)
            start = end
        last = hidden.part((len(chunk) - 1) * self._hidden_bytes, self._hidden_bytes)
        return (*self._head(last), conversation.length)

    def _chunk(self, conversation: Conversation, ids: Sequence[int], places: Array, shown: Shown | None) -> Buffer:
        """At most prefill_length further positions. Their hidden states."""
        past, n = conversation.length, len(ids)
        kind = graphs.BLOCK_KV if past else graphs.BLOCK
        dynamic = self._device.nets[graphs.layer_name(kind, 0)].dynamic
        rows = n if dynamic else self._sizes.prefill_length
        cached = past if dynamic or not past else self._sizes.seq_length  # places of the mask before the chunk's own
        mask = np.full((rows, cached + rows), self._masked)
        mask[:n, :past] = 0
        mask[:n, cached : cached + n] = np.triu(mask[:n, cached : cached + n], 1)
        for begin, end in shown.runs() if shown and shown.together else ():
            mask[begin:end, cached + begin : cached + end] = 0
        positions = np.zeros((*self._position.shape[:-1], rows), np.int32)
        positions[..., :n] = places
        padded = np.zeros(self._sizes.prefill_length, np.int32)
        padded[:n] = ids
        return self._through(conversation, graphs.EMBEDDING, kind, n, padded, positions, mask, shown)

    def decode(self, number: int, token: int, place: int) -> Result:
        """Appends `token` to conversation `number`, which must not be full. `place`: its position."""
        conversation = self._conversations[number]
        at = conversation.length
        mask = np.full(self._sizes.seq_length + 1, self._masked)
        mask[:at] = mask[-1] = 0  # the last place is the new step's own
        position = np.full(self._position.shape, place, np.int32)
        ids = np.array([token], np.int32)
        hidden = self._through(conversation, graphs.EMBEDDING_CACHE, graphs.BLOCK_CACHE, None, ids, position, mask)
        conversation.length = at + 1
        return (*self._head(hidden), at + 1)

    def _through(
        self,
        conversation: Conversation,
        embedding: str,
        kind: str,
        length: int | None,
        ids: Array,
        positions: Array,
        mask: Array,
        shown: Shown | None = None,
    ) -> Buffer:
        """Embedding and all blocks; new k and v go straight to their place in the cache. The hidden states' buffer."""
        for mem, values in ((self._position_mem, positions), (self._mask_mem, mask)):
            self._device.write(mem, values)
        hidden, spare = self._hidden_mems
        self._embed(embedding, ids, hidden, length)
        if shown:
            self._splice(shown, hidden)
        for layer, cache in enumerate(conversation.cache):
            inputs = [hidden, self._position_mem, self._mask_mem, *(() if kind == graphs.BLOCK else cache)]
            new = [self._from(conversation.length, mem) for mem in cache]
            self._launch(graphs.layer_name(kind, layer), kind, inputs, [spare, *new], length, conversation.length)
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

    def _from(self, position: int, mem: Buffer) -> Buffer:
        """The part of a K or V buffer from `position` on."""
        offset = mem.size // self._cached * position
        return mem.part(offset, mem.size - offset)

    def _head(self, hidden: Buffer) -> tuple[int, Array | None]:
        self._launch(graphs.LM_HEAD, graphs.LM_HEAD, [hidden], [self._head_mem], None)
        out = self._specs[graphs.LM_HEAD].outputs[0]
        values = from_storage(self._device.read(self._head_mem, out), out.dtype).reshape(-1)
        return (int(values[0]), None) if out.dtype == graphs.INT32 else (int(values.argmax()), values)

    def _launch(
        self,
        net: str,
        kind: str,
        inputs: Sequence[Buffer],
        outputs: Sequence[Buffer],
        length: int | None,
        past: int = 0,
    ) -> None:
        """Buffers in the contract's order."""
        top1 = self._specs[net].outputs[0].dtype == graphs.INT32
        known = contract(kind, top1)
        ins = {t.name: mem for t, mem in zip(known.inputs, inputs, strict=True)}
        outs = {t.name: mem for t, mem in zip(known.outputs, outputs, strict=True)}
        self._device.launch(net, ins, outs, length, past)
