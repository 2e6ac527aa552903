"""Conversations with two builds of one checkpoint, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from runtime.engine import Engine
from runtime.session import Session, Step

CHIP = "bm1684x"
NEAR_TIE = 0.05  # logits lie some 3 apart; bfloat16 through two layers moves them by less than this


def ids(count: int, seed: int = 0, vocab: int = 500) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, vocab, count)]


@contextmanager
def session(folder: Path, chip: str = CHIP) -> Iterator[Session]:
    with Engine(next(folder.glob("*.bmodel")), chip) as engine, engine.session() as opened:
        yield opened


def answer(session: Session, first: Step, forced: Sequence[int]) -> list[Step]:
    """The step after the prompt, and those after each of `forced`."""
    return [first, *(session.decode(token) for token in forced)]


def assert_same(found: Sequence[Step], wanted: Sequence[Step], least: float = 0.9999) -> None:
    """The same tokens, but where the two likeliest lie so near that bfloat16 cannot tell them apart. `least`: cosine
    of the logits."""
    assert [step.length for step in found] == [step.length for step in wanted]
    for place, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.logits is not None
        assert b.logits is not None
        cosine = a.logits @ b.logits / (np.linalg.norm(a.logits) * np.linalg.norm(b.logits))
        assert cosine > least, (place, cosine)
        assert a.token == b.token or b.logits[b.token] - b.logits[a.token] < NEAR_TIE, place
