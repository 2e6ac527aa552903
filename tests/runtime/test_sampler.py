import numpy as np
import pytest

from contract.errors import UserError
from exporters import sampling
from runtime.sampler import Sampler


def _logits(seed: int, size: int = 400) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(size) * 3).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "penalty"),
    [(1.0, 0, 1.0, 1.0), (0.7, 20, 1.0, 1.0), (1.5, 0, 0.8, 1.0), (0.9, 50, 0.95, 1.3), (2.0, 400, 0.01, 0.8)],
)
def test_distribution_equals_hugging_face(
    seed: int, temperature: float, top_k: int, top_p: float, penalty: float
) -> None:
    logits, seen = _logits(seed), [3, 3, 17, 399]
    ours = Sampler(temperature, top_k, top_p, penalty).probabilities(logits, seen)
    theirs = sampling.distribution(logits, seen, temperature, top_k, top_p, penalty)
    np.testing.assert_array_equal(ours > 0, theirs > 0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_ties_at_the_k_th_place_are_kept_as_hugging_face_keeps_them() -> None:
    logits = np.array([1.0, 2.0, 2.0, 2.0, 0.0], np.float32)
    ours = Sampler(1.0, top_k=2).probabilities(logits, [])
    np.testing.assert_allclose(ours, sampling.distribution(logits, [], 1.0, 2, 1.0, 1.0))
    assert (ours > 0).sum() == 3


def test_draws_follow_the_distribution_and_the_seed() -> None:
    logits = _logits(1, 8)
    expected = Sampler(1.0).probabilities(logits, [])
    sampler = Sampler(1.0, seed=1)
    draws = [sampler.choose(logits, []) for _ in range(20_000)]
    np.testing.assert_allclose(np.bincount(draws, minlength=8) / len(draws), expected, atol=0.015)
    assert [Sampler(1.0, seed=5).choose(_logits(i), []) for i in range(20)] == [
        Sampler(1.0, seed=5).choose(_logits(i), []) for i in range(20)
    ]


def test_greedy_heeds_the_penalty_and_leaves_its_input_alone() -> None:
    logits = np.array([5.0, 4.0, -1.0], np.float32)
    assert Sampler().choose(logits, [0]) == 0
    assert Sampler(repetition_penalty=2.0).choose(logits, [0]) == 1
    assert logits.tolist() == [5.0, 4.0, -1.0]
    assert Sampler().takes_likeliest
    assert not Sampler(repetition_penalty=2.0).takes_likeliest


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"repetition_penalty": 0},
    ],
)
def test_nonsense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="makes no sense"):
        Sampler(**options)  # type: ignore[arg-type]
