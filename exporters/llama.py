"""Llama: Llama-2/3, Yi, DeepSeek-coder, LWM-Text, SmolLM2, TinyStories. Grouped KV heads, any rope scaling."""

from exporters.architecture import Architecture, Fusion

LAYER_WEIGHTS = (
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
)
FUSED_QKV = Fusion("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))

ARCHITECTURE = Architecture(
    model_types=("llama",),
    layer_weights=LAYER_WEIGHTS,
    fusions=(FUSED_QKV,),
    patches="patches.llama:FUSED",
    split_patches="patches.llama:SEPARATE",
)
