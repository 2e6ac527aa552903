"""The loop from a prompt to an answer: prefill, choose, decode, until the end, the limit or a full cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence

from contract.errors import UserError
from contract.vision import Pictures
from runtime.batch import Batch
from runtime.sampler import Sampler
from runtime.session import Session, Step

STOP, LENGTH = "stop", "length"
Start = Callable[[Session], "Generation"]


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
        token = self.begin()
        while token is not None:
            yield token
            if not self.goes_on():
                return
            began = time.perf_counter()
            step = self._session.decode(token)
            token = self.go_on(step, time.perf_counter() - began)

    def begin(self) -> int | None:
        """Takes the prompt in. The first token; None where there is none."""
        began = time.perf_counter()
        token = self._choose(self._session.resume(self._prompt, self._pictures))
        self.seconds_to_first = time.perf_counter() - began
        return self._take(token)

    def goes_on(self) -> bool:
        """Whether there may be a token after the last."""
        if self.finish_reason is None and (len(self.tokens) >= self._limit or self._session.full):
            self.finish_reason = LENGTH
        return self.finish_reason is None

    def go_on(self, step: Step, seconds: float) -> int | None:
        """The token after the last, which `step` took in; None where it is the end. `seconds`: that the step took."""
        began = time.perf_counter()
        token = self._choose(step)
        self._decoding += seconds + time.perf_counter() - began
        self._steps += 1
        return self._take(token)

    def _take(self, token: int) -> int | None:
        if token in self._ends:
            self.finish_reason = STOP
            return None
        self.tokens.append(token)
        return token

    def _choose(self, step: Step) -> int:
        if self._sampler.takes_likeliest:
            return step.token
        if step.logits is None:
            what = "this bmodel's head gives only the likeliest token, so there is nothing to sample from"
            raise UserError(what, remedy="leave temperature and penalty out, or build with a logits head")
        return self._sampler.choose(step.logits, [*self._prompt, *self.tokens])


def side_by_side(batch: Batch, waiting: Sequence[Start]) -> list[Generation]:
    """Runs all to their ends, as many at once as there are seats: who comes next takes the first seat that is left.
    `waiting`: what makes each, given its seat."""
    free, begun = list(range(len(batch.seats))), list[Generation]()
    sitting: dict[int, Generation] = {}
    while sitting or len(begun) < len(waiting):
        while free and len(begun) < len(waiting):
            seat = free.pop(0)
            begun.append(generation := waiting[len(begun)](batch.seats[seat]))
            sitting[seat] = generation
            generation.begin()
            if not generation.goes_on():
                free.append(seat)
                del sitting[seat]
        if not sitting:
            continue
        began = time.perf_counter()
        steps = batch.decode({seat: generation.tokens[-1] for seat, generation in sitting.items()})
        seconds = time.perf_counter() - began
        for seat, step in steps.items():
            sitting[seat].go_on(step, seconds)
            if not sitting[seat].goes_on():
                free.append(seat)
                del sitting[seat]
    return begun
