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
    """`prompt_length`, `seq_length`: positions that a prompt and the whole conversation may take. `prefill_length`: of
    them those computed at once. `history`: whether prefill can go on from what is cached."""

    def __init__(self, engine: Engine) -> None:
        found = sizes(engine.nets)
        self.prefill_length, self.seq_length = found.prefill_length, found.seq_length
        self.prompt_length, self.history = found.prompt_length, found.history
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
        return self._prefill(self._prompt(ids))

    def resume(self, ids: Sequence[int]) -> Step:
        """The same, but what the conversation so far has in common with `ids` is not computed again, where the bmodel
        has a history."""
        checked = self._prompt(ids)
        row = self._engine.rope.row(len(checked), self.seq_length)
        held = self._ids if self._length is not None and self.history and row == self._row else []
        common = next((i for i, (a, b) in enumerate(zip(held, checked, strict=False)) if a != b), len(held))
        past = min(common, len(checked) - 1)  # the last one gives the logits
        if not past:
            return self._prefill(checked)
        self._ids = []
        step = self._step("extend", past, checked[past:])
        self._ids = checked
        return step

    def extend(self, ids: Sequence[int]) -> Step:
        """Takes `ids` in at once, behind all tokens so far. UserError as in prefill."""
        if self._length is None:
            raise ValueError("prefill before extend")
        return self.resume([*self._ids, *checks.token_ids(ids, self._engine.vocab, self._engine.bmodel.name)])

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
        if self._engine.rope.restarts and grown != self._row and length <= self.prompt_length:
            return self._prefill([*self._ids, *checked])
        step = self._step("decode", checked[0])
        self._ids += checked
        return step

    def close(self) -> None:
        """Gives the cache back. Twice is harmless, and so is an engine that died."""
        number, self._number, self._length = self._number, None, None
        if number is not None and self._engine.alive:
            self._engine.call("decoder", "close", number)

    def _prompt(self, ids: Sequence[int]) -> list[int]:
        where = self._engine.bmodel.name
        checked = checks.token_ids(ids, self._engine.vocab, where)
        if len(checked) > self.prompt_length:
            longer = "a larger sequence length"
            if self.prompt_length < self.seq_length:
                longer = "a larger input length, or with HISTORY=1"
            limit, remedy = f"it takes {self.prompt_length}", f"shorten it or build with {longer}"
            raise UserError(f"the prompt has {len(checked)} tokens; {limit}", where, remedy)
        return checked

    def _prefill(self, ids: list[int]) -> Step:
        self._row, self._ids = self._engine.rope.row(len(ids), self.seq_length), []
        step = self._step("prefill", ids)
        self._ids = list(ids)
        return step

    def _step(self, call: str, *arguments: int | list[int]) -> Step:
        self._length = None  # stays so if the call is interrupted: the worker's cache then holds what we do not know
        step = Step(*self._engine.call("decoder", call, self._number, *arguments, self._row))
        self._length = step.length
        return step
