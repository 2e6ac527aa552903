"""Llama deviates in speed only: the attention form that compiles best, for one device and for several."""

from patches.attention import fused_qkv, separate_qkv

FUSED = (fused_qkv("llama", "LlamaAttention"),)
SEPARATE = (separate_qkv("llama", "LlamaAttention"),)
