"""Qwen3: Llama with norms on each head of q and k, and a head size of its own."""

from exporters.architecture import Architecture
from exporters.parts import LAYER_WEIGHTS, attention
from exporters.qwen2 import read

ARCHITECTURE = Architecture(
    model_types=("qwen3",),
    layer_weights=(*LAYER_WEIGHTS, "self_attn.q_norm.weight", "self_attn.k_norm.weight"),
    swaps=(attention(norms=("q_norm", "k_norm")),),
    read=read,
)
