"""The loop from a prompt to an answer: prefill, choose, decode, until the end, the limit or a full cache."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence

from contract.errors import UserError
from contract.vision import Pictures
from runtime.sampler import Sampler
from runtime.session import Session, Step

STOP, LENGTH = "stop", "length"


class Generation:
    """Iterate over it once to get the answer's token ids as they come; it may be left early. What the session holds
    of the prompt is not computed again, where the bmodel can go on from there. `pictures`: what the prompt shows.

    `tokens`: so far, without the end token. `finish_reason`: STOP at one of `ends`, LENGTH at `max_new_tokens` or
    when the session is full, None before. `seconds_to_first`: of prefill and first choice. `tokens_per_second`: of
    the decode steps after it, 0 where there were none.
    """

    def __init__(
        self,
        session: Session,
        prompt: Sequence[int],
        sampler: Sampler,
        max_new_tokens: int,
        ends: Collection[int],
        pictures: Pictures | None = None,
    ) -> None:
        if max_new_tokens < 1:
            raise UserError(f"max-new-tokens {max_new_tokens} makes no sense", remedy="use 1 or more")
        self._session, self._prompt, self._sampler = session, list(prompt), sampler
        self._limit, self._ends, self._pictures = max_new_tokens, frozenset(ends), pictures
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self.seconds_to_first = 0.0
        self._decoding, self._steps = 0.0, 0

    @property
    def tokens_per_second(self) -> float:
        return self._steps / self._decoding if self._decoding else 0.0

    def __iter__(self) -> Iterator[int]:
        began = time.perf_counter()
        token = self._choose(self._session.resume(self._prompt, self._pictures))
        self.seconds_to_first = time.perf_counter() - began
        while token not in self._ends:
            self.tokens.append(token)
            yield token
            if len(self.tokens) >= self._limit or self._session.full:
                self.finish_reason = LENGTH
                return
            began = time.perf_counter()
            token = self._choose(self._session.decode(token))
            self._decoding += time.perf_counter() - began
            self._steps += 1
        self.finish_reason = STOP

    def _choose(self, step: Step) -> int:
        if self._sampler.takes_likeliest:
            return step.token
        if step.logits is None:
            what = "this bmodel's head gives only the likeliest token, so there is nothing to sample from"
            raise UserError(what, remedy="leave temperature and penalty out, or build with a logits head")
        return self._sampler.choose(step.logits, [*self._prompt, *self.tokens])
