"""Falcon: one joint projection, few KV heads, attention and MLP side by side; 40B groups its q heads by KV head."""

from __future__ import annotations

from typing import Any

from contract.errors import UserError
from exporters.architecture import Architecture
from exporters.parts import attention
from exporters.spec import DecoderSpec, llama_like


def read(config: dict[str, Any]) -> DecoderSpec:
    """UserError for the small models that use ALiBi, which scale their bias in a way of their own."""
    if config.get("alibi"):
        raise UserError("Falcon with ALiBi is not supported", "config.json", "take falcon-7b, falcon-40b or later")
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    few = config["num_kv_heads"] if config.get("new_decoder_architecture") else 1
    wide = config.get("ffn_hidden_size") or 4 * hidden
    kv_heads = few if config.get("new_decoder_architecture") or config.get("multi_query", True) else heads
    per_layer = 2 * hidden * (hidden + kv_heads * hidden // heads) + 2 * hidden * wide + 4 * hidden
    layers = config["num_hidden_layers"]
    return llama_like(
        {"max_position_embeddings": 2048, "tie_word_embeddings": True, **config},
        kv_heads=kv_heads,
        intermediate=wide,
        layer_norm=True,
        layer_parameters=(per_layer,) * layers,
    )


def order(spec: DecoderSpec) -> str:
    """With one KV head for all, "grouped" and "plain" are the same."""
    return "grouped"


ARCHITECTURE = Architecture(
    model_types=("falcon",),
    layer_weights=(
        "self_attention.query_key_value.weight",
        "self_attention.dense.weight",
        "mlp.dense_h_to_4h.weight",
        "mlp.dense_4h_to_h.weight",
    ),
    swaps=(attention("self_attention", ("query_key_value",), "dense", order=order),),
    embed="transformer.word_embeddings",
    layers="transformer.h",
    norm="transformer.ln_f",
    rotary="transformer.rotary_emb",
    read=read,
)
