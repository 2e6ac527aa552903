"""GLM-4.1V: GLM-4-0414 with positions in time, height and width, and a tower with a free grid of patches, whose learned
positions the host interpolates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from contract.errors import UserError
from exporters import glm, qwen_vl
from exporters.architecture import Architecture
from exporters.parts import attention
from exporters.spec import DecoderSpec
from exporters.vision import VisionSpec


def read(config: dict[str, Any]) -> DecoderSpec:
    if "text_config" not in config:
        what = "the decoder's settings stand among all others, where transformers 5 passes over them"
        raise UserError(what, "text_config", "take the config.json that the hub has now")
    text = qwen_vl.text(config)
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    return glm.read(text, usual=1.0, axes=3, vision=tower(config), tied=tied)


def tower(config: dict[str, Any]) -> VisionSpec:
    """A block's MLP is as wide as the decoder's states, and the merger's has what config.json calls intermediate."""
    vision = config["vision_config"]
    hidden, out, wide = vision["hidden_size"], vision["out_hidden_size"], vision["intermediate_size"]
    patch, merge, frames = vision["patch_size"], vision["spatial_merge_size"], vision["temporal_patch_size"]
    side = vision["image_size"] // patch
    merger = merge**2 * hidden * out + out * out + 3 * out * wide
    blocks = vision["depth"] * (4 * hidden * hidden + 3 * hidden * out)
    return VisionSpec(
        blocks=vision["depth"],
        hidden=hidden,
        intermediate=out,
        heads=vision["num_heads"],
        out_hidden=out,
        patch=patch,
        merge=merge,
        frames=frames,
        image_token=config["image_token_id"],
        video_token=config["image_token_id"],  # stands for rows of either
        table=side,
        given=True,
        steps_apart=True,
        parameters=blocks + merger + 3 * frames * patch**2 * hidden,
    )


ARCHITECTURE: Architecture = replace(
    qwen_vl.ARCHITECTURE,
    model_types=("glm4v",),
    layer_weights=(
        *glm.ARCHITECTURE.layer_weights,
        "post_self_attn_layernorm.weight",
        "post_mlp_layernorm.weight",
    ),
    swaps=(attention(pairs=glm.rotary_size, q_apart=True),),
    tables="patches.rotary:pairs_by_axis",
    stored=(),
    vision=replace(qwen_vl.VISION, module="patches.glm_tower:GlmTower", table="embeddings.position_embedding"),
    read=read,
)
