"""Conversations side by side: one decode step for all, of a bmodel that was built for several (BATCH=n).

Seats are taken and left at any time. It chooses no tokens and knows no text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from runtime.nets import sizes
from runtime.session import Session, Step

if TYPE_CHECKING:
    from runtime.engine import Engine


class Batch:
    """`seats`: a Session each, with a KV cache of its own. A prompt goes in by the seat's prefill or resume, for which
    the others wait; tokens by `decode`. A seat that is left needs nothing: the next prefill starts it over."""

    def __init__(self, engine: Engine) -> None:
        """UserError where the bmodel is not a decoder."""
        count = sizes(engine.nets).batch
        self._engine, self._number = engine, engine.call("decoder", "open")
        self.seats = tuple(Session(engine, self._number, seat) for seat in range(count))

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decode(self, tokens: Mapping[int, int]) -> dict[int, Step]:
        """Takes a token in at each of these seats, in one step; the others are idle. UserError as Session.decode."""
        steps = self.seats[0].decode_together({self.seats[seat]: token for seat, token in tokens.items()})
        return {seat: steps[self.seats[seat]] for seat in tokens}

    def close(self) -> None:
        """Gives the caches back. Twice is harmless, and so is an engine that died."""
        number, self._number = self._number, None
        for seat in self.seats:
            seat.close()
        if number is not None and self._engine.alive:
            self._engine.call("decoder", "close", number)
