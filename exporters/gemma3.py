"""Gemma 3 (text): norms on q and k, five layers of a short window to one that sees all, a rope base for each kind."""

from __future__ import annotations

from typing import Any

from exporters import gemma
from exporters.architecture import Architecture
from exporters.parts import LAYER_WEIGHTS, attention
from exporters.spec import DecoderSpec

PATTERN = 6  # every sixth layer sees everything, where config.json does not say otherwise


def read(config: dict[str, Any]) -> DecoderSpec:
    return gemma.read({"sliding_window_pattern": PATTERN, **config})


ARCHITECTURE = Architecture(
    model_types=("gemma3_text",),
    layer_weights=(*LAYER_WEIGHTS, "self_attn.q_norm.weight", "self_attn.k_norm.weight"),
    swaps=(attention(norms=("q_norm", "k_norm")),),
    tables="patches.rotary:by_layer_type",
    read=read,
)
