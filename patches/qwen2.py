"""Qwen2 deviates in speed only: the attention form that compiles best, for one device and for several."""

from patches.attention import fused_qkv, separate_qkv

FUSED = (fused_qkv("qwen2", "Qwen2Attention"),)
SEPARATE = (separate_qkv("qwen2", "Qwen2Attention"),)
