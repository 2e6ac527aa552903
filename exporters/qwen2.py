"""Qwen1.5, Qwen2, Qwen2.5: Llama with biases on q, k and v; small sizes tie the head to the embedding."""

from __future__ import annotations

from typing import Any

from exporters.architecture import Architecture
from exporters.parts import LAYER_WEIGHTS, SPLIT, attention
from exporters.spec import DecoderSpec, llama_like, sliding


def read(config: dict[str, Any], **known: Any) -> DecoderSpec:
    """Layers from `max_window_layers` on slide their window, where the config says that any do; none published does."""
    if not config.get("use_sliding_window"):
        return llama_like(config, **known)
    named, first = config.get("layer_types"), config["max_window_layers"]
    layers = range(config["num_hidden_layers"])
    every = [t == "sliding_attention" for t in named] if named else [i >= first for i in layers]
    return llama_like(config, **sliding(config, every), **known)


ARCHITECTURE = Architecture(
    model_types=("qwen2",),
    layer_weights=(
        *LAYER_WEIGHTS,
        "self_attn.q_proj.bias",
        "self_attn.k_proj.bias",
        "self_attn.v_proj.bias",
    ),
    swaps=(attention(),),
    split=SPLIT,
    read=read,
)
