"""Cycles of nets that the vendor's own `llm_convert` compiled: figures to stand beside ours in a report.

Measured with tpu-mlir 1.30.2, from the compiler's own profile: W4BF16, group 64, 512 positions, random weights of
the sizes given. With several devices the figure is one device's. llm_convert keeps lm_head in bfloat16 in every mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contract.graphs import BLOCK, BLOCK_CACHE, LM_HEAD

SOURCE = "llm_convert of tpu-mlir 1.30.2 at the same sizes; its lm_head is in bfloat16 whatever the mode."

_HALF_BILLION = {"hidden": 896, "intermediate": 4864, "heads": 14, "kv_heads": 2, "head_dim": 64}
_SEVEN_BILLION = {"hidden": 3584, "intermediate": 18944, "heads": 28, "kv_heads": 4, "head_dim": 128}
_INT4 = {"mode": "int4", "seq_length": 512, "group_size": 64}


@dataclass(frozen=True)
class Figure:
    """`conditions`: the sizes and options under which `cycles` was counted."""

    kind: str
    cycles: int
    conditions: Mapping[str, Any]


def _blocks(sizes: Mapping[str, int], chip: str, devices: int, prefill: int, decode: int) -> tuple[Figure, Figure]:
    conditions = {**sizes, **_INT4, "chip": chip, "devices": devices}
    whole = {**conditions, "input_length": 0}
    return Figure(BLOCK, prefill, whole), Figure(BLOCK_CACHE, decode, conditions)


FIGURES = (
    *_blocks(_HALF_BILLION, "bm1684x", 1, 2_370_793, 191_096),
    *_blocks(_HALF_BILLION, "bm1684x", 2, 1_734_875, 130_117),
    *_blocks(_HALF_BILLION, "bm1688", 1, 6_572_936, 224_233),
    *_blocks(_SEVEN_BILLION, "bm1684x", 1, 20_722_717, 2_488_304),
    *_blocks(_SEVEN_BILLION, "bm1684x", 2, 12_148_264, 1_399_170),
    Figure(LM_HEAD, 6_974_819, {"hidden": 896, "vocab": 151936, "chip": "bm1684x", "devices": 1}),
)


def find(kind: str, sizes: Mapping[str, Any]) -> int | None:
    """Cycles of one such net where no condition of a figure is contradicted by `sizes`, else None."""
    for figure in FIGURES:
        if figure.kind == kind and all(sizes.get(key, value) == value for key, value in figure.conditions.items()):
            return figure.cycles
    return None
