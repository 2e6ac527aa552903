"""GLM-4-9B in Hugging Face's own classes: rope on pairs in the first half of each head; glm4 has two more norms."""

from __future__ import annotations

from typing import Any

from exporters.architecture import Architecture
from exporters.parts import attention
from exporters.spec import DecoderSpec, llama_like, rope_of


def rotary_size(spec: DecoderSpec) -> int:
    return spec.head_dim // 2


def read(config: dict[str, Any], usual: float = 0.5, **known: Any) -> DecoderSpec:
    """The table's `rotary_size` holds for every published file; another share of the head is refused. `usual`: the
    share where config.json does not say it."""
    share = config.get("partial_rotary_factor") or rope_of(config).get("partial_rotary_factor") or usual
    if share != 0.5:
        raise KeyError("partial_rotary_factor of 0.5")
    return llama_like(config, **known)


ARCHITECTURE = Architecture(
    model_types=("glm", "glm4"),
    layer_weights=(
        "input_layernorm.weight",
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
        "mlp.gate_up_proj.weight",
        "mlp.down_proj.weight",
    ),
    swaps=(attention(pairs=rotary_size),),
    read=read,
)
