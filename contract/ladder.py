"""The parity ladder: its rungs, the bar of each with its reason, and the score of one comparison."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import frexp, inf, isnan

from contract.graphs import BLOCK_CACHE, EMBEDDING

PATCHED = "patched"  # patched torch against unpatched Hugging Face
ONNX = "onnx"  # ONNX Runtime against patched torch
CHIP = "chip"  # each net of the bmodel on the chip or simulator against ONNX Runtime
TOKENS = "tokens"  # tokens of the whole bmodel against Hugging Face
PICTURES = "pictures.npz"  # what the ladder's prompt shows, among its references
RUNGS = (PATCHED, ONNX, CHIP, TOKENS)

# Both in float32, the largest absolute difference, in units of the largest value at its position where that is
# above 1 (see exporters.parity). Patched torch differs by the order of sums in one matmul against three; ONNX
# Runtime by other kernels that tile their sums differently.
MAX_ABS_PATCHED = 1e-5
MAX_ABS_ONNX = 1e-4
# bfloat16 keeps 8 bits of mantissa, so a dot product of independent roundings stays within 1e-3 of cosine 1;
# int8 per channel adds steps of 1/254 of a channel's range; int4 in groups adds steps of 1/15 of a group's.
MIN_COSINE = {"bf16": 0.999, "f16": 0.999, "int8": 0.99, "int4": 0.96}
# Teacher-forced agreement with Hugging Face in float32, over POSITIONS, of which those count whose two likeliest
# tokens lie further apart than the half type can tell (`resolution`): nearer ones are a toss-up. At least MIN_POSITIONS
# must count. The quantised bars guard against collapse, not against quantisation: stories15M, the only trained model
# measured to the end, stays well above them.
POSITIONS, MIN_POSITIONS = 81, 64
# Share of the free memory that Hugging Face's float32 weights may take; the rest is for activations and other rungs.
MEMORY_SHARE = 0.6
MIN_AGREEMENT = {"bf16": 0.98, "f16": 0.98, "int8": 0.9, "int4": 0.7}
MANTISSA = {"bf16": 7, "f16": 10, "int8": 7, "int4": 7}


def resolution(logit: float, mode: str) -> float:
    """How far apart two logits near `logit` must lie to be told apart in the half type of `mode`: two units in the
    last place, one for the rounding of each."""
    return 2.0 ** (frexp(logit)[1] - MANTISSA[mode])


def judged_as(word: str) -> str:
    """The mode whose bars hold for a net that is quantised as model_deploy's `word` (W4BF16, W8F16, BF16, …) says."""
    return {"W4": "int4", "W8": "int8", "BF": "bf16", "F1": "f16"}[word[:2]]


def weakest(modes: Iterable[str]) -> str:
    """The one of `modes` of which the least is asked: what the tokens of nets of different modes are judged by."""
    return min(modes, key=MIN_AGREEMENT.__getitem__)


@dataclass(frozen=True)
class Score:
    """One comparison. `net` is a net name or "model"; `layer` its index or None; `metric` is max_abs, cosine or
    agreement; `detail` says in words what was compared (steps, positions, where the largest difference lies)."""

    rung: str
    net: str
    layer: int | None
    metric: str
    value: float
    bar: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        """NaN passes nothing: both comparisons are false for it."""
        return self.value <= self.bar if self.metric == "max_abs" else self.value >= self.bar

    @property
    def excess(self) -> float:
        """How much of the room that its bar leaves the score uses up; above 1 it fails. Comparable over metrics."""
        if isnan(self.value):
            return inf
        if self.metric == "max_abs":
            return self.value / self.bar
        if self.bar == 1:
            return 0.0 if self.passed else inf
        return (1 - self.value) / (1 - self.bar)

    def as_json(self) -> dict[str, object]:
        return {**self.__dict__, "passed": self.passed}


def score_from_json(data: dict[str, object]) -> Score:
    return Score(**{k: v for k, v in data.items() if k != "passed"})  # type: ignore[arg-type]


def first_failure(scores: list[Score]) -> Score | None:
    """Where the error enters: the failing score on the lowest rung, there the first net that the tokens pass."""

    def order(score: Score) -> tuple[int, float, bool]:
        outside = -1 if score.net.startswith(EMBEDDING) else inf
        layer = outside if score.layer is None else score.layer
        return RUNGS.index(score.rung), layer, score.net.startswith(BLOCK_CACHE)

    return min((s for s in scores if not s.passed), key=order, default=None)
