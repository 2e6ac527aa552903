"""StarCoder, WizardCoder-15B: one joint projection, one KV head, learned positions."""

from __future__ import annotations

from typing import Any

from exporters.architecture import Architecture
from exporters.parts import attention
from exporters.spec import DecoderSpec, llama_like


def read(config: dict[str, Any]) -> DecoderSpec:
    """GPT-2's names: n_embd, n_head, n_layer, n_inner, n_positions."""
    heads, hidden, layers = config["n_head"], config["n_embd"], config["n_layer"]
    kv_heads = 1 if config.get("multi_query", True) else heads
    wide = config.get("n_inner") or 4 * hidden
    per_layer = 2 * hidden * (hidden + kv_heads * hidden // heads) + 2 * hidden * wide + 13 * hidden
    return llama_like(
        {
            "tie_word_embeddings": True,
            **config,
            "hidden_size": hidden,
            "max_position_embeddings": config["n_positions"],
        },
        heads=heads,
        layers=layers,
        kv_heads=kv_heads,
        intermediate=wide,
        layer_norm=True,
        layer_parameters=(per_layer,) * layers,
        layer_kinds=(0, *(1,) * (layers - 1)),  # the first adds the positions
        attention_scale=(hidden // heads) ** -0.5 if config.get("scale_attn_weights", True) else 1.0,
    )


def order(spec: DecoderSpec) -> str:
    """With a KV head for each q head, the three lie together; with one for all, both orders are the same."""
    return "grouped"


ARCHITECTURE = Architecture(
    model_types=("gpt_bigcode",),
    layer_weights=(
        "ln_1.weight",
        "attn.c_attn.weight",
        "attn.c_attn.bias",
        "attn.c_proj.weight",
        "ln_2.weight",
        "mlp.c_fc.weight",
        "mlp.c_proj.weight",
    ),
    swaps=(attention("attn", ("c_attn",), "c_proj", order=order),),
    embed="transformer.wte",
    positions="transformer.wpe",
    layers="transformer.h",
    norm="transformer.ln_f",
    rotary="",
    read=read,
)
