"""Conversations on the real simulator against Hugging Face, for both chips and for the forms llm_convert gives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from contract.errors import UserError
from runtime.engine import Engine
from runtime.session import Session
from tests.runtime.conftest import GEOMETRY, SEQ, bmodel_in

pytestmark = pytest.mark.toolchain
PROMPT = [int(i) for i in np.random.default_rng(1).integers(0, GEOMETRY.vocab, 12)]
NEAR_TIE = 0.05  # logits lie some 3 apart; bfloat16 through two layers moves them by less than this


@pytest.fixture(scope="module")
def hugging_face(talking_checkpoint: Path) -> Callable[[list[int]], np.ndarray]:
    """float32 logits [length, V] of Hugging Face for a sequence."""
    model = AutoModelForCausalLM.from_pretrained(talking_checkpoint, dtype=torch.float32)

    def logits(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].numpy()

    return logits


def _follow(session: Session, ids: list[int], prompt: int) -> list[tuple[int, np.ndarray | None]]:
    """Tokens and logits after ids[:prompt], then after each further id."""
    steps = [session.prefill(ids[:prompt]), *(session.decode(i) for i in ids[prompt:])]
    assert [s.length for s in steps] == list(range(prompt, len(ids) + 1))
    return [(s.token, s.logits) for s in steps]


def _agree(token: int, reference: np.ndarray) -> bool:
    return bool(reference[token] >= reference.max() - NEAR_TIE)


def test_every_step_gives_hugging_faces_logits(engine: Engine, hugging_face: Callable[[list[int]], np.ndarray]) -> None:
    ids = [int(i) for i in np.random.default_rng(2).integers(0, GEOMETRY.vocab, SEQ)]
    wanted = hugging_face(ids)
    with engine.session() as session:
        steps = _follow(session, ids, 12)
        assert session.full
    for position, (token, logits) in enumerate(steps, start=11):
        assert logits is not None
        reference = wanted[position]
        cosine = logits @ reference / (np.linalg.norm(logits) * np.linalg.norm(reference))
        assert cosine > 0.9999, (position, cosine)
        assert _agree(token, reference), position
        assert token == logits.argmax()


@pytest.mark.parametrize(
    ("chip", "options"),
    [("bm1688", ("--num_core", "2")), ("bm1684x", ("--dynamic", "--max_input_length", "32", "--chunk_length", "16"))],
)
@pytest.mark.parametrize("prompt", [1, 12, 32])
def test_top1_bmodels_choose_hugging_faces_tokens(
    convert: Callable[..., Path],
    hugging_face: Callable[[list[int]], np.ndarray],
    engines: Callable[[Path, str], Engine],
    chip: str,
    options: tuple[str, ...],
    prompt: int,
) -> None:
    ids = [int(i) for i in np.random.default_rng(prompt).integers(0, GEOMETRY.vocab, prompt + 6)]
    wanted = hugging_face(ids)[prompt - 1 :]
    with engines(bmodel_in(convert(chip, *options)), chip).session() as session:
        assert session.prefill_length == (32 if "--max_input_length" in options else SEQ)
        steps = _follow(session, ids, prompt)
    assert all(logits is None for _, logits in steps)
    assert [_agree(token, w) for (token, _), w in zip(steps, wanted, strict=True)] == [True] * len(steps)


@pytest.fixture(scope="module")
def engines() -> Callable[[Path, str], Engine]:
    running: dict[Path, Engine] = {}

    def get(path: Path, chip: str) -> Engine:
        if path not in running:
            running[path] = Engine(path, chip)
        return running[path]

    yield get
    for engine in running.values():
        engine.close()


def test_two_conversations_do_not_mix(engine: Engine) -> None:
    ids = [PROMPT, PROMPT[::-1]]
    with engine.session() as a, engine.session() as b:
        alone = [_follow(s, i, 4) for s, i in ((a, ids[0]), (b, ids[1]))]
        first = [s.prefill(i[:4]) for s, i in ((a, ids[0]), (b, ids[1]))]
        mixed = [[(step.token, step.logits)] for step in first]
        for k in range(4, len(PROMPT)):
            for n, session in enumerate((a, b)):
                step = session.decode(ids[n][k])
                mixed[n].append((step.token, step.logits))
    for one, other in zip(alone, mixed, strict=True):
        for (token, logits), (again, same) in zip(one, other, strict=True):
            assert token == again
            np.testing.assert_array_equal(logits, same)


def test_a_new_prefill_forgets_the_last_conversation(engine: Engine) -> None:
    with engine.session() as session:
        fresh = session.prefill(PROMPT[:3])
        _follow(session, PROMPT, 10)
        np.testing.assert_array_equal(session.prefill(PROMPT[:3]).logits, fresh.logits)


def test_limits_are_refused_before_anything_runs(engine: Engine) -> None:
    with engine.session() as session:
        with pytest.raises(ValueError, match="prefill before decode"):
            session.decode(1)
        with pytest.raises(UserError, match="the prompt has 65 tokens; it takes 64; shorten it"):
            session.prefill([1] * (SEQ + 1))
        with pytest.raises(UserError, match="token id 500 is out of range; use 0 to 499"):
            session.prefill([1, 500])
        with pytest.raises(UserError, match="no token ids"):
            session.prefill([])
        session.prefill([1] * SEQ)
        assert session.full
        with pytest.raises(UserError, match="all 64 positions are in use"):
            session.decode(1)
        assert session.prefill(PROMPT).length == len(PROMPT)
        with pytest.raises(UserError, match="out of range"):
            session.decode(-1)
