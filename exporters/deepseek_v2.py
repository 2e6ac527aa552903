"""DeepSeek-V2-Lite: latent attention with rotary pairs side by side, experts from the second layer on."""

from __future__ import annotations

from typing import Any

from contract.errors import UserError
from exporters.architecture import Architecture, Source, Swap
from exporters.latent import latent_attention, latent_fields
from exporters.spec import DecoderSpec, llama_like


def read(config: dict[str, Any]) -> DecoderSpec:
    """UserError for the large models' choice of experts by groups."""
    if config.get("topk_method", "greedy") != "greedy":
        raise UserError("experts chosen by groups are not supported", "config.json", "take DeepSeek-V2-Lite")
    hidden, layers, dense = config["hidden_size"], config["num_hidden_layers"], config["first_k_dense_replace"]
    experts, width = config["n_routed_experts"], config["moe_intermediate_size"]
    routed = 3 * hidden * width * (experts + (config.get("n_shared_experts") or 0)) + hidden * experts
    fields = latent_fields(config)
    attention, plain = fields.pop("attention_parameters"), 3 * hidden * config["intermediate_size"]
    widths = (*fields.pop("widths"), ("expert size", width))
    return llama_like(
        config,
        **fields,
        experts=experts,
        widths=widths,
        layer_kinds=(0,) * dense + (1,) * (layers - dense) if dense else (0,) * layers,
        layer_parameters=tuple(attention + (plain if i < dense else routed) for i in range(layers)),
    )


def experts(spec: DecoderSpec, devices: int) -> dict[str, Source]:
    each = {name: f"experts.{{expert}}.{name}_proj" for name in ("gate", "up", "down")}
    return {
        "router": Source(("gate",)),
        "gate": Source((each["gate"],)),
        "up": Source((each["up"],)),
        "down": Source((each["down"],), axis=1),
    }


ARCHITECTURE = Architecture(
    model_types=("deepseek_v2",),
    layer_weights=(
        "input_layernorm.weight",
        "self_attn.kv_a_proj_with_mqa.weight",
        "self_attn.kv_a_layernorm.weight",
        "self_attn.kv_b_proj.weight",
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
    ),
    swaps=(latent_attention(pairs=True), Swap("mlp", "patches.experts:DenseExperts", experts, when="mlp.experts")),
    tables="patches.rotary:complex_pairs",
    read=read,
)
