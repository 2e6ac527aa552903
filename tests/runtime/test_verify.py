"""The two upper rungs on the real simulator, with references that are right, and wrong in known ways."""

import json
from pathlib import Path

import numpy as np
import pytest

from contract import graphs
from contract.errors import UserError
from contract.ladder import MIN_POSITIONS, Score
from runtime import verify
from runtime.engine import Engine
from tests.runtime.conftest import GEOMETRY, SEQ

pytestmark = pytest.mark.toolchain
VALID = 10


@pytest.fixture(scope="module")
def true_reference(engine: Engine) -> dict[str, dict[str, np.ndarray]]:
    """Per net the arrays of a reference that agrees with the bmodel exactly; block_cache nets with two steps."""
    rng = np.random.default_rng(0)
    special = {
        "input_ids": lambda shape: rng.integers(0, GEOMETRY.vocab, shape),
        "position_ids": lambda shape: rng.integers(0, SEQ, shape),
        "top_k": lambda shape: np.full(shape, 20),
        "top_p": lambda shape: np.full(shape, 0.9),
        "penalty": lambda shape: np.full(shape, 1.1),
        "temperature": lambda shape: np.full(shape, 0.8),
        "attention_mask": lambda shape: np.zeros(shape),
    }
    made: dict[str, dict[str, np.ndarray]] = {}
    for net, spec in engine.nets.items():
        arrays: dict[str, np.ndarray] = {}
        for prefix in ("0.", "1.") if spec.kind == graphs.BLOCK_CACHE else ("",):
            given = {t.name: special.get(t.name, rng.standard_normal)(t.shape) for t in spec.inputs}
            arrays |= {f"{prefix}in.{name}": values for name, values in given.items()}
            arrays |= {f"{prefix}out.{name}": values for name, values in engine.run(net, given).items()}
        if spec.kind in (graphs.EMBEDDING, graphs.BLOCK):
            arrays["valid"] = np.array(VALID)
        made[net] = arrays
    return made


def _scores(
    engine: Engine, folder: Path, reference: dict[str, dict[str, np.ndarray]], mode: str = "bf16"
) -> dict[str, Score]:
    for net, arrays in reference.items():
        np.savez(folder / f"{net}.npz", **arrays)
    return {s.net: s for s in verify.chip_scores(engine, folder, mode)}


def test_equal_outputs_score_one(
    engine: Engine, true_reference: dict[str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    seen: list[str] = []
    scores = _scores(engine, tmp_path, true_reference)
    assert list(scores) == list(engine.nets)
    for net, score in scores.items():
        assert score.passed, score
        assert score.value == pytest.approx(1, abs=1e-9)
        assert score.layer == engine.nets[net].layer
        assert score.metric == ("agreement" if net == "greedy_head" else "cosine")
    verify.chip_scores(engine, tmp_path, "bf16", seen.append)
    assert seen == list(engine.nets)


def test_the_worst_output_of_the_worst_step_counts(
    engine: Engine, true_reference: dict[str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    arrays = dict(true_reference["block_cache_1"])
    arrays["1.out.v_cache"] = -arrays["1.out.v_cache"]
    arrays["0.out.k_cache"] = arrays["0.out.k_cache"] + 0.001
    score = _scores(engine, tmp_path, {"block_cache_1": arrays})["block_cache_1"]
    assert (score.value, score.detail, score.layer, score.passed) == (pytest.approx(-1), "v_cache, step 1", 1, False)


def test_padding_does_not_count_and_nan_does(
    engine: Engine, true_reference: dict[str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    name = "out.output_states"
    padded, broken = dict(true_reference["block_0"]), dict(true_reference["block_0"])
    padded[name], broken[name] = padded[name].copy(), broken[name].copy()
    padded[name][:, VALID:] = np.nan
    broken[name][0, VALID - 1, 0] = np.nan
    assert _scores(engine, tmp_path, {"block_0": padded})["block_0"].passed
    score = _scores(engine, tmp_path, {"block_0": broken})["block_0"]
    assert np.isnan(score.value)
    assert not score.passed
    assert score.detail == "output_states"


def test_a_missing_reference_fails(engine: Engine, tmp_path: Path) -> None:
    scores = verify.chip_scores(engine, tmp_path, "bf16")
    assert [s.net for s in scores] == list(engine.nets)
    assert not any(s.passed for s in scores)
    assert {s.detail for s in scores} == {"no reference"}


def test_wrong_ids_and_probabilities_fail(
    engine: Engine, true_reference: dict[str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    greedy, sample = dict(true_reference["greedy_head"]), dict(true_reference["sample_head"])
    greedy["out.token_id"] = greedy["out.token_id"] + 1
    order = [19, *range(1, 19), 0]  # two candidates that change places with their probabilities
    sample["out.probs"], sample["out.token_idx"] = sample["out.probs"][:, order], sample["out.token_idx"][:, order]
    scores = _scores(engine, tmp_path, {"greedy_head": greedy, "sample_head": sample})
    assert (scores["greedy_head"].metric, scores["greedy_head"].value) == ("agreement", 0)
    assert scores["sample_head"].value == pytest.approx(1)
    sample["out.token_idx"] = sample["out.token_idx"][:, order]  # without them
    assert _scores(engine, tmp_path, {"sample_head": sample})["sample_head"].value < 0.999


def test_a_reference_of_something_else_is_refused(engine: Engine, tmp_path: Path) -> None:
    np.savez(tmp_path / "embedding.npz", something=np.zeros(1))
    with pytest.raises(UserError, match=r"embedding.npz: not a reference of a net"):
        verify.chip_scores(engine, tmp_path, "bf16")


def _tokens(engine: Engine, folder: Path, count: int = MIN_POSITIONS - 1) -> dict[str, list[float]]:
    """A token reference that agrees with the bmodel exactly; it fills the sequence."""
    with engine.session() as session:
        expected = [session.prefill([7]).token]
        forced = [int(i) for i in np.random.default_rng(0).integers(0, GEOMETRY.vocab, count)]
        expected += [session.decode(token).token for token in forced]
    reference = {"prompt": [7], "forced": forced, "expected": expected, "gap": [0.5] * len(expected)}
    reference["top"] = [4.0] * len(expected)
    (folder / "tokens.json").write_text(json.dumps(reference))
    return reference


def test_tokens_are_counted(engine: Engine, tmp_path: Path) -> None:
    reference = _tokens(engine, tmp_path)
    (score,) = verify.token_scores(engine, tmp_path, "bf16")
    assert (score.value, score.net, score.layer, score.metric, score.passed) == (1, "model", None, "agreement", True)
    for position in (3, 8, 60):
        reference["expected"][position] += 1
    (tmp_path / "tokens.json").write_text(json.dumps(reference))
    (score,) = verify.token_scores(engine, tmp_path, "bf16")
    assert (score.value, score.passed) == (61 / 64, False)
    assert score.detail == "61 of 64 positions; first difference at 3, where the two likeliest lie 0.5 apart"
    assert verify.token_scores(engine, tmp_path, "int8")[0].passed


def test_near_ties_do_not_count(engine: Engine, tmp_path: Path) -> None:
    """Around 4 bfloat16 steps by 1/32, float16 by 1/256. What is left out counts as missing where too few are left."""
    reference = _tokens(engine, tmp_path)
    for position in (3, 4):
        reference["expected"][position] += 1
        reference["gap"][position] = 1 / 16
    (tmp_path / "tokens.json").write_text(json.dumps(reference))
    near, told = (verify.token_scores(engine, tmp_path, mode)[0] for mode in ("bf16", "f16"))
    assert near.detail == "62 of 64 positions, 2 near-ties left out, 62 of which could be run"
    assert told.detail.startswith("62 of 64 positions; first difference at 3")


def test_too_few_positions_cannot_pass(engine: Engine, tmp_path: Path) -> None:
    _tokens(engine, tmp_path, count=19)
    (score,) = verify.token_scores(engine, tmp_path, "int4")
    assert (score.value, score.passed) == (20 / 64, False)
    assert "20 of which could be run" in score.detail


def test_no_token_reference_is_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no token reference"):
        verify.token_scores(engine, tmp_path, "bf16")


def test_one_position_cannot_hide_behind_a_large_one() -> None:
    right = np.ones((1, 3, 4))
    right[0, 0] = 1e4
    wrong = right.copy()
    wrong[0, 2] *= -1
    assert verify._cosine(right, right) == pytest.approx(1)
    assert verify._cosine(wrong, right) == pytest.approx(1 / 3)  # of 1, 1 and -1
    small = right.copy()
    small[0, 1] = 1e-3
    turned = small.copy()
    turned[0, 1] *= -1
    assert verify._cosine(turned, small) == pytest.approx(1, abs=2e-3)
    wrong[0, 1] = np.nan
    assert np.isnan(verify._cosine(wrong, right))
