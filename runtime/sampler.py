"""Chooses the next token from the logits, on the host, as Hugging Face's logits processors do, in their order:
repetition penalty, temperature, top-k, top-p.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import UserError

Logits = NDArray[np.floating[Any]]


class Sampler:
    """`temperature` 0 takes the likeliest token; `top_k` 0 and `top_p` 1 keep all; `repetition_penalty` 1 is none.

    The same `seed` gives the same tokens; None draws a new one. UserError for values that make no sense.
    """

    def __init__(
        self,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
    ) -> None:
        for what, value, fits, remedy in (
            ("temperature", temperature, 0 <= temperature < np.inf, "use 0 (greedy) or more"),
            ("top-k", top_k, top_k >= 0, "use 0 (all) or more"),
            ("top-p", top_p, 0 < top_p <= 1, "use more than 0 and at most 1"),
            ("repetition penalty", repetition_penalty, 0 < repetition_penalty < np.inf, "use more than 0; 1 is none"),
        ):
            if not fits:
                raise UserError(f"{what} {value} makes no sense", remedy=remedy)
        self._temperature, self._top_k, self._top_p = temperature, top_k, top_p
        self._penalty = repetition_penalty
        self._random = np.random.default_rng(seed)

    @property
    def takes_likeliest(self) -> bool:
        """Whether it needs no logits: the head's own argmax is its choice."""
        return self._temperature == 0 and self._penalty == 1

    def choose(self, logits: Logits, seen: Sequence[int]) -> int:
        """A token id. `logits`: [V]. `seen`: prompt and answer so far, which the repetition penalty counts."""
        if self._temperature == 0:
            return int(self._penalised(logits, seen).argmax())
        return int(self._random.choice(len(logits), p=self.probabilities(logits, seen)))

    def probabilities(self, logits: Logits, seen: Sequence[int]) -> NDArray[np.float64]:
        """float64 [V], of sum 1: what choose() draws from where the temperature is not 0."""
        scores = self._penalised(logits, seen) / self._temperature
        if 0 < self._top_k < scores.size:
            scores[scores < np.partition(scores, -self._top_k)[-self._top_k]] = -np.inf
        if self._top_p < 1:
            order = np.argsort(scores, kind="stable")
            unlikely = _softmax(scores[order]).cumsum() <= 1 - self._top_p
            unlikely[-1] = False
            scores[order[unlikely]] = -np.inf
        return _softmax(scores)

    def _penalised(self, logits: Logits, seen: Sequence[int]) -> NDArray[np.float64]:
        scores = np.array(logits, dtype=np.float64)
        if self._penalty != 1 and len(seen):
            ids = np.unique(seen)
            scores[ids] = np.where(scores[ids] < 0, scores[ids] * self._penalty, scores[ids] / self._penalty)
        return scores


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())
