"""Baichuan and Baichuan 2: one joint projection; 7B turns q and k, 13B uses ALiBi; 2 normalises its head."""

from __future__ import annotations

from typing import Any

from exporters.architecture import Architecture
from exporters.parts import attention
from exporters.spec import DecoderSpec, llama_like


def read(config: dict[str, Any]) -> DecoderSpec:
    """All four models share a model_type. Code with ALiBi has no use for `max_position_embeddings`, and its published
    config.json names `model_max_length` only; code with rope reads the former, and its config.json has it."""
    alibi = "max_position_embeddings" not in config
    most = config["model_max_length"] if alibi else config["max_position_embeddings"]
    return llama_like(config, alibi=alibi, max_positions=most)


ARCHITECTURE = Architecture(
    model_types=("baichuan",),
    layer_weights=(
        "input_layernorm.weight",
        "self_attn.W_pack.weight",
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    ),
    swaps=(attention(parts=("W_pack",), to="patches.attention:CachedAttention"),),
    rotary="model.layers.0.self_attn.rotary_emb",
    tables="patches.rotary:whole",
    normalised_head="NormHead",
    remote=True,
    read=read,
)
