"""Qwen1.5, Qwen2, Qwen2.5: Llama with biases on q, k and v; small sizes tie the head to the embedding."""

from exporters.architecture import Architecture
from exporters.llama import FUSED_QKV, LAYER_WEIGHTS

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
)
