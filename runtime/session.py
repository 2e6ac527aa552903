"""One conversation with a bmodel: a prompt in, then one token after the other. Its KV cache lies on the device.

It chooses no tokens (runtime.sampler does) and knows no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contract.errors import UserError
from runtime import checks
from runtime.nets import sizes

if TYPE_CHECKING:
    from runtime.engine import Engine


@dataclass(frozen=True)
class Step:
    """`token`: the likeliest next id. `logits`: float32 [V], None with a top-1 head. `length`: positions in use."""

    token: int
    logits: NDArray[np.float32] | None
    length: int


class Session:
    """`prefill_length`, `seq_length`: positions that a prompt and the whole conversation may take."""

    def __init__(self, engine: Engine) -> None:
        found = sizes(engine.nets)
        self.prefill_length, self.seq_length = found.prefill_length, found.seq_length
        self._engine = engine
        self._length: int | None = None
        self._row, self._ids = 0, list[int]()  # see contract.manifest.Rope; all tokens taken in
        self._number: int | None = engine.call("open")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def full(self) -> bool:
        """Whether no further token can be taken in."""
        return self._length is not None and self._length >= self.seq_length

    def prefill(self, ids: Sequence[int]) -> Step:
        """Starts over with the prompt `ids`. UserError for an empty or too long one and for ids out of range."""
        where = self._engine.bmodel.name
        checked = checks.token_ids(ids, self._engine.vocab, where)
        if len(checked) > self.prefill_length:
            limit = f"it takes {self.prefill_length}"
            remedy = "shorten it or build with a larger sequence length"
            raise UserError(f"the prompt has {len(checked)} tokens; {limit}", where, remedy)
        return self._prefill(checked)

    def decode(self, token: int) -> Step:
        """Takes `token` in. UserError for an id out of range and where the session is full."""
        if self._length is None:
            raise ValueError("prefill before decode")  # also after a step that was interrupted
        where = self._engine.bmodel.name
        if self.full:
            raise UserError(f"all {self.seq_length} positions are in use", where, "start over with a shorter prompt")
        checked = checks.token_ids([token], self._engine.vocab, where)
        length = self._length + 1
        grown = self._engine.rope.row(length, self.seq_length)
        if self._engine.rope.restarts and grown != self._row and length <= self.prefill_length:
            return self._prefill([*self._ids, *checked])
        step = self._step("decode", checked[0])
        self._ids += checked
        return step

    def close(self) -> None:
        """Gives the cache back. Twice is harmless, and so is an engine that died."""
        number, self._number, self._length = self._number, None, None
        if number is not None and self._engine.alive:
            self._engine.call("decoder", "close", number)

    def _prefill(self, ids: list[int]) -> Step:
        self._row, self._ids = self._engine.rope.row(len(ids), self.seq_length), []
        step = self._step("prefill", ids)
        self._ids = list(ids)
        return step

    def _step(self, call: str, argument: int | list[int]) -> Step:
        self._length = None  # stays so if the call is interrupted: the worker's cache then holds what we do not know
        step = Step(*self._engine.call("decoder", call, self._number, argument, self._row))
        self._length = step.length
        return step
