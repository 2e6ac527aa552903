"""Mistral: Llama whose layers may all slide a window."""

from __future__ import annotations

from typing import Any

from exporters.architecture import Architecture
from exporters.parts import LAYER_WEIGHTS, attention
from exporters.spec import DecoderSpec, llama_like, sliding


def read(config: dict[str, Any]) -> DecoderSpec:
    """`sliding_window` is absent or null from version 0.2 on."""
    slides = sliding(config, (True,) * config["num_hidden_layers"]) if config.get("sliding_window") else {}
    return llama_like(config, **slides)


ARCHITECTURE = Architecture(model_types=("mistral",), layer_weights=LAYER_WEIGHTS, swaps=(attention(),), read=read)
