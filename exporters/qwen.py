"""Qwen (the first): one joint projection with bias, NTK by the prompt's length, q scaled with its position (logn)."""

from __future__ import annotations

from typing import Any

from exporters.architecture import Architecture
from exporters.parts import attention
from exporters.spec import DecoderSpec, llama_like


def read(config: dict[str, Any]) -> DecoderSpec:
    """`intermediate_size` counts gate and up together. `seq_length`: the length of training; NTK's alpha steps up at
    each doubling of it, and stays what the prompt made it."""
    trained, most = config["seq_length"], config["max_position_embeddings"]
    doublings = tuple(trained * 2**k for k in range(most.bit_length()) if trained * 2**k < most)
    return llama_like(
        config,
        intermediate=config["intermediate_size"] // 2,
        rope_switches=doublings if config.get("use_dynamic_ntk") else (),
        rope_restarts=False,
        logn_from=trained if config.get("use_logn_attn") else None,
    )


ARCHITECTURE = Architecture(
    model_types=("qwen",),
    layer_weights=(
        "ln_1.weight",
        "attn.c_attn.weight",
        "attn.c_attn.bias",
        "attn.c_proj.weight",
        "ln_2.weight",
        "mlp.w1.weight",
        "mlp.w2.weight",
        "mlp.c_proj.weight",
    ),
    swaps=(attention("attn", ("c_attn",), "c_proj"),),
    embed="transformer.wte",
    layers="transformer.h",
    norm="transformer.ln_f",
    rotary="transformer",
    tables="patches.rotary:ntk",
    remote=True,
    read=read,
)
