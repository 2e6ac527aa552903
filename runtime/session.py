"""One conversation with a bmodel: a prompt in, then one token after the other. Its KV cache lies on the device.

It chooses no tokens (runtime.sampler does) and knows no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import UserError
from runtime import checks
from runtime.nets import sizes
from runtime.sight import Sight

if TYPE_CHECKING:
    from contract.vision import Pictures
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

    def __init__(self, engine: Engine, number: int | None = None, seat: int = 0) -> None:
        """`number`, `seat`: where it sits in a batch (runtime.batch) that is not its own."""
        found = sizes(engine.nets)
        self.prefill_length, self.seq_length = found.prefill_length, found.seq_length
        self.prompt_length, self.history = found.prompt_length, found.history
        self._engine, self._sight = engine, Sight(engine)
        self._length: int | None = None
        self._row, self._ids = 0, list[int]()  # see contract.manifest.Rope; all tokens taken in
        self._shift, self._seen = 0, list[str]()  # from length to position (contract.vision); digests of its pictures
        self._number: int | None = engine.call("decoder", "open") if number is None else number
        self._seat, self._guest = seat, number is not None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def full(self) -> bool:
        """Whether no further token can be taken in."""
        return self._length is not None and self._length >= self.seq_length

    def prefill(self, ids: Sequence[int], pictures: Pictures | None = None) -> Step:
        """Starts over with the prompt `ids`. UserError for an empty or too long one, for ids out of range, and for
        pictures that the bmodel cannot take or that the prompt has no places for."""
        return self._prefill(self._prompt(ids), pictures)

    def resume(self, ids: Sequence[int], pictures: Pictures | None = None) -> Step:
        """The same, but what the conversation so far has in common with `ids` is not computed again, where the bmodel
        has a history."""
        checked = self._prompt(ids)
        row = self._engine.rope.row(len(checked), self.seq_length)
        held = self._ids if self._length is not None and self.history and row == self._row else []
        common = next((i for i, (a, b) in enumerate(zip(held, checked, strict=False)) if a != b), len(held))
        if held and pictures is not None:
            common = min(common, self._sight.common(checked, pictures, self._seen))
        past = min(common, len(checked) - 1)  # the last one gives the logits
        return self._take(checked, past, row, pictures) if past else self._prefill(checked, pictures)

    def extend(self, ids: Sequence[int]) -> Step:
        """Takes `ids` in at once, behind all tokens so far. UserError as in prefill."""
        if self._length is None:
            raise ValueError("prefill before extend")
        return self.resume([*self._ids, *checks.token_ids(ids, self._engine.vocab, self._engine.bmodel.name)])

    def decode(self, token: int) -> Step:
        """Takes `token` in. UserError for an id out of range and where the session is full."""
        return self.decode_together({self: token})[self]

    def decode_together(self, tokens: Mapping[Session, int]) -> dict[Session, Step]:
        """The same for some sessions of its batch (for itself alone, where it sits in none), in one step."""
        checked = {session: session._next(token) for session, token in tokens.items()}
        steps = {s: s._prefill([*s._ids, token]) for s, token in checked.items() if s._restarts()}
        asked = {s._seat: (token, s._place()) for s, token in checked.items() if s not in steps}
        for session in checked:
            if session not in steps:
                session._length = None  # as in _step
        results = self._engine.call("decoder", "decode", self._number, asked) if asked else {}
        for session, token in checked.items():
            if session not in steps:
                steps[session] = step = Step(*results[session._seat])
                session._length = step.length
                session._ids.append(token)
        return {session: steps[session] for session in tokens}

    def _next(self, token: int) -> int:
        """`token`, if it can be taken in."""
        if self._length is None:
            raise ValueError("prefill before decode")  # also after a step that was interrupted
        where = self._engine.bmodel.name
        if self.full:
            raise UserError(f"all {self.seq_length} positions are in use", where, "start over with a shorter prompt")
        return checks.token_ids([token], self._engine.vocab, where)[0]

    def _restarts(self) -> bool:
        """Whether a further position makes rope another, from the first position on."""
        length = (self._length or 0) + 1
        grown = self._engine.rope.row(length, self.seq_length)
        return self._engine.rope.restarts and grown != self._row and length <= self.prompt_length

    def _place(self) -> int:
        """The position of the next token. UserError where the nets have none for it."""
        place = (self._length or 0) + self._shift
        self._sight.check([place], self.seq_length)
        return self._row + place

    def close(self) -> None:
        """Gives the cache back, if it is its own. Twice is harmless, and so is an engine that died."""
        number, self._number, self._length = self._number, None, None
        if number is not None and self._engine.alive and not self._guest:
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

    def _prefill(self, ids: list[int], pictures: Pictures | None = None) -> Step:
        return self._take(ids, 0, self._engine.rope.row(len(ids), self.seq_length), pictures)

    def _take(self, ids: list[int], past: int, row: int, pictures: Pictures | None) -> Step:
        """All of `ids` but the first `past`, which are cached."""
        positions, shift = self._sight.positions(ids, pictures, self.seq_length)
        shown = self._sight.shown(ids, past, pictures)
        self._ids = []
        step = self._step("extend", past, ids[past:], positions[:, past:] + np.int32(row), shown)
        self._row, self._ids, self._shift = row, list(ids), shift
        self._seen = pictures.digests if pictures else []
        return step

    def _step(self, call: str, *arguments: Any) -> Step:
        self._length = None  # stays so if the call is interrupted: the worker's cache then holds what we do not know
        step = Step(*self._engine.call("decoder", call, self._number, self._seat, *arguments))
        self._length = step.length
        return step
