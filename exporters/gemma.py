"""Gemma and Gemma 2: scaled embeddings; 2 caps its scores and logits and slides the window of every second layer."""

from __future__ import annotations

from typing import Any

from exporters.architecture import Architecture
from exporters.parts import LAYER_WEIGHTS, attention
from exporters.spec import DecoderSpec, llama_like, sliding


def read(config: dict[str, Any]) -> DecoderSpec:
    """Keys that a version lacks leave its feature out. `sliding_window_pattern`: every so many layers see all."""
    layers, head_dim = config["num_hidden_layers"], config["head_dim"]
    slides: dict[str, Any] = {}
    if config.get("sliding_window"):
        pattern = config.get("sliding_window_pattern") or 2
        named = config.get("layer_types")
        every = [t == "sliding_attention" for t in named] if named else [(i + 1) % pattern > 0 for i in range(layers)]
        slides = sliding(config, every)
    return llama_like(
        config,
        embedding_scale=config["hidden_size"] ** 0.5,
        attention_scale=(config.get("query_pre_attn_scalar") or head_dim) ** -0.5,
        attention_softcap=config.get("attn_logit_softcapping"),
        logit_softcap=config.get("final_logit_softcapping"),
        tied=bool(config.get("tie_word_embeddings", True)),  # published files leave it to the class, which ties
        **slides,
    )


ARCHITECTURE = Architecture(
    model_types=("gemma", "gemma2"), layer_weights=LAYER_WEIGHTS, swaps=(attention(),), read=read
)
