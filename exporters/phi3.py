"""Phi-3, Phi-4-mini: joint projections in the checkpoint, partial rope, LongRoPE's two tables, a sliding window."""

from exporters.architecture import Architecture
from exporters.mistral import of_one_window
from exporters.parts import attention

ARCHITECTURE = Architecture(
    model_types=("phi3",),
    layer_weights=(
        "input_layernorm.weight",
        "self_attn.qkv_proj.weight",
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
        "mlp.gate_up_proj.weight",
        "mlp.down_proj.weight",
    ),
    swaps=(attention(parts=("qkv_proj",)),),
    read=of_one_window,
)
