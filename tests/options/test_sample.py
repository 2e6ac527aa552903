"""SAMPLE: logits out of lm_head, and two nets that choose a token from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contract import graphs
from contract.errors import UserError
from contract.graphs import Geometry
from exporters import chain, modules, sampling
from runtime import bmodel
from runtime.engine import Engine
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import manifest
from tests.options.conftest import Checkpoint as Make
from tests.options.conftest import Made
from tests.options.conversations import CHIP, NEAR_TIE, answer, ids, session
from tests.runtime.conftest import bmodel_in

VOCABULARY, LENGTH = 500, 96
PLAIN = ("--mode", "bf16", "--no-sample", "--verify", "none")
Logits = NDArray[np.float32]
Setting = tuple[float, int, float, float]


def normal(seed: int) -> Logits:
    return (np.random.default_rng(seed).standard_normal(VOCABULARY) * 3).astype(np.float32)


def coarse(seed: int) -> Logits:
    """As a bfloat16 head gives them: many are equal, at the k-th place too."""
    return np.round(normal(seed) * 4) / 4


def negative(seed: int) -> Logits:
    """All far below 0: what is filtered out must not rise above them."""
    return normal(seed) - 40


# temperature, top-k, top-p, penalty: each filter alone, then together; 0.01 is as good as greedy.
SETTINGS: list[Setting] = [
    (1.0, 50, 1.0, 1.0),
    (0.7, 20, 1.0, 1.0),
    (1.5, 30, 0.8, 1.0),
    (1.0, 30, 1.0, 1.4),
    (0.9, 30, 0.95, 1.3),
    (2.0, 30, 0.01, 0.8),
    (0.01, 10, 0.9, 1.1),
    (1.0, 1, 1.0, 1.0),
]
# Of equals at the last candidate's place, some are none: Hugging Face keeps all of them.
CASES = [(kind, setting) for kind in (normal, coarse, negative) for setting in SETTINGS[kind is coarse :]]
SEEN = [3, 3, 17, 499, 250]


def by_value(probabilities: NDArray[np.float64], logits: Logits, penalty: float) -> NDArray[np.float64]:
    """Sums over equal logits: which of several equals top-p leaves out is nobody's rule."""
    seen = np.isin(np.arange(VOCABULARY), SEEN)
    penalised = np.where(seen, np.where(logits < 0, logits * penalty, logits / penalty), logits)
    return np.bincount(np.unique(penalised, return_inverse=True)[1], probabilities)


@pytest.fixture(scope="module")
def folder(made: Made, checkpoint: Make) -> Path:
    return made(checkpoint("qwen2"), "--mode", "bf16", "--sample")


@pytest.mark.toolchain
def test_it_climbs_the_ladder_and_adds_two_nets(folder: Path, made: Made, checkpoint: Make) -> None:
    done = manifest(folder)
    assert done["status"] == "verified", done["reason"]
    heads = {graphs.GREEDY_HEAD, graphs.SAMPLE_HEAD}
    for rung in ("patched", "onnx", "chip"):
        assert heads <= {s["net"] for s in done["parity"] if s["rung"] == rung}
    sampled = bmodel.read(bmodel_in(folder)).nets
    plain = bmodel.read(bmodel_in(made(checkpoint("qwen2"), *PLAIN))).nets
    assert set(sampled) - set(plain) == heads


def check(run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], logits: Logits, settings: Setting) -> None:
    found = sampling.probabilities(run(sampling.inputs(logits[None], SEEN, settings, LENGTH)), VOCABULARY)
    wanted = sampling.distribution(logits, SEEN, *settings)
    sums = [by_value(probabilities, logits, settings[3]) for probabilities in (found, wanted)]
    # float32 holds a logit of 50, divided by the temperature, to one part in 16 million, and exp makes it relative.
    np.testing.assert_allclose(*sums, atol=50 / settings[0] * 2**-23)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_distribution_equals_hugging_face(kind: Callable[[int], Logits], settings: Setting) -> None:
    net = graphs.sample_head(Geometry(1, 128, 1, 2, 64, vocab=VOCABULARY, seq_length=LENGTH))
    run = chain.torch_runner(modules.SampleHead(), net)
    for seed in range(20):
        check(run, kind(seed), settings)


@pytest.mark.toolchain
def test_so_it_does_on_the_chip(folder: Path) -> None:
    with Engine(bmodel_in(folder), CHIP) as engine:
        for seed, (kind, settings) in enumerate(CASES * 3):
            check(partial(engine.run, graphs.SAMPLE_HEAD), kind(seed), settings)
            greedy = engine.run(graphs.GREEDY_HEAD, {"m_logits": kind(seed)[None]})["token_id"].item()
            assert kind(seed)[greedy] == kind(seed).max()


@pytest.mark.toolchain
def test_the_likeliest_token_is_that_of_a_head_without(folder: Path, made: Made, checkpoint: Make) -> None:
    steps = []
    for one in (folder, made(checkpoint("qwen2"), *PLAIN)):
        with session(one) as opened:
            steps.append(answer(opened, opened.prefill(ids(30)), ids(12, seed=9)))
    sampled, plain = steps
    assert all(step.logits is None for step in plain)
    for a, b in zip(sampled, plain, strict=True):
        assert a.logits is not None
        assert a.token == int(a.logits.argmax())
        assert a.token == b.token or a.logits[a.token] - a.logits[b.token] < NEAR_TIE


def test_names_and_refusals() -> None:
    assert recipe_plan("qwen2.5-0.5b", sample=True).folder.name.endswith("_1dev_sample")
    with pytest.raises(UserError) as error:
        recipe_plan("qwen2.5-0.5b", sample="maybe")
    assert str(error.value) == '--sample: "maybe" is neither true nor false; write true or false'
