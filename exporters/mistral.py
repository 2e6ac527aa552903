"""Mistral: Llama whose layers may all slide a window."""

from __future__ import annotations

from typing import Any

from exporters.architecture import Architecture
from exporters.parts import LAYER_WEIGHTS, SPLIT, attention
from exporters.spec import DecoderSpec, llama_like, sliding


def read(config: dict[str, Any]) -> DecoderSpec:
    """`sliding_window` is null from version 0.2 on; Mistral's class has 4096 where a file leaves it out."""
    return of_one_window({"sliding_window": 4096, **config})


def of_one_window(config: dict[str, Any]) -> DecoderSpec:
    """All layers slide the same window, or none does."""
    slides = sliding(config, (True,) * config["num_hidden_layers"]) if config.get("sliding_window") else {}
    return llama_like(config, **slides)


ARCHITECTURE = Architecture(
    model_types=("mistral",), layer_weights=LAYER_WEIGHTS, swaps=(attention(),), split=SPLIT, read=read
)
