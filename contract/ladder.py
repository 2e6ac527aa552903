"""The parity ladder: its rungs, the bar of each with its reason, and the score of one comparison."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isnan

from contract.graphs import BLOCK_CACHE, EMBEDDING

PATCHED = "patched"  # patched torch against unpatched Hugging Face
ONNX = "onnx"  # ONNX Runtime against patched torch
CHIP = "chip"  # each net of the bmodel on the chip or simulator against ONNX Runtime
TOKENS = "tokens"  # tokens of the whole bmodel against Hugging Face
RUNGS = (PATCHED, ONNX, CHIP, TOKENS)

# Both in float32, the largest absolute difference, in units of the largest value at its position where that is
# above 1 (see exporters.parity). Patched torch differs by the order of sums in one matmul against three; ONNX
# Runtime by other kernels that tile their sums differently.
MAX_ABS_PATCHED = 1e-5
MAX_ABS_ONNX = 1e-4
# bfloat16 keeps 8 bits of mantissa, so a dot product of independent roundings stays within 1e-3 of cosine 1;
# int8 per channel adds steps of 1/254 of a channel's range; int4 in groups adds steps of 1/15 of a group's.
MIN_COSINE = {"bf16": 0.999, "f16": 0.999, "int8": 0.99, "int4": 0.96}
# Teacher-forced agreement with Hugging Face in float32, over at least MIN_POSITIONS. 62 of 64 leaves room for two
# near-ties that half precision may turn; the quantised bars guard against collapse, not against quantisation:
# stories15M, the only trained model measured to the end, reaches 64 (int8) and 60 (int4).
MIN_POSITIONS = 64
MIN_AGREEMENT = {"bf16": 62 / 64, "f16": 62 / 64, "int8": 58 / 64, "int4": 45 / 64}


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
