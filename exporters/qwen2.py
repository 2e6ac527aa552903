"""Qwen1.5, Qwen2, Qwen2.5: Llama with biases on q, k and v; small sizes tie the head to the embedding."""

from dataclasses import replace
from typing import Any

from exporters.architecture import Architecture
from exporters.llama import FUSED_QKV, LAYER_WEIGHTS
from exporters.spec import DecoderSpec, llama_like


def read(config: dict[str, Any]) -> DecoderSpec:
    """No published Qwen2 slides its window; where one does, it is built up to the window, where that changes nothing."""
    spec = llama_like(config)
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    return replace(spec, max_positions=min(spec.max_positions, window)) if window else spec


ARCHITECTURE = Architecture(
    model_types=("qwen2",),
    layer_weights=(
        *LAYER_WEIGHTS,
        "self_attn.q_proj.bias",
        "self_attn.k_proj.bias",
        "self_attn.v_proj.bias",
    ),
    fusions=(FUSED_QKV,),
    patches="patches.qwen2:FUSED",
    split_patches="patches.qwen2:SEPARATE",
    read=read,
)
