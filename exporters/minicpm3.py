"""MiniCPM3: latent attention; embeddings, residual branches and logits scaled."""

from __future__ import annotations

from typing import Any

from exporters.architecture import Architecture
from exporters.latent import latent_attention, latent_fields
from exporters.parts import LAYER_WEIGHTS
from exporters.spec import DecoderSpec, llama_like


def read(config: dict[str, Any]) -> DecoderSpec:
    fields = latent_fields(config)
    per_layer = fields.pop("attention_parameters") + 3 * config["hidden_size"] * config["intermediate_size"]
    return llama_like(
        {"tie_word_embeddings": True, **config},  # the class ties where the file leaves it out
        **fields,
        layer_parameters=(per_layer,) * config["num_hidden_layers"],
        embedding_scale=float(config["scale_emb"]),
        logit_scale=config["dim_model_base"] / config["hidden_size"],
    )


ARCHITECTURE = Architecture(
    model_types=("minicpm3",),
    layer_weights=(
        *(name for name in LAYER_WEIGHTS if "_proj" not in name or name.startswith("mlp.")),
        "self_attn.q_a_proj.weight",
        "self_attn.q_a_layernorm.weight",
        "self_attn.q_b_proj.weight",
        "self_attn.kv_a_proj_with_mqa.weight",
        "self_attn.kv_a_layernorm.weight",
        "self_attn.kv_b_proj.weight",
        "self_attn.o_proj.weight",
    ),
    swaps=(latent_attention(pairs=False),),
    read=read,
)
