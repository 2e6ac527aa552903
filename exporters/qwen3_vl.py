"""Qwen3-VL: Qwen3 with interleaved M-RoPE; a tower with interpolated positions, of which some blocks feed the decoder's
first layers as well (deepstack)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from exporters import qwen3, qwen_vl
from exporters.architecture import Architecture
from exporters.spec import DecoderSpec
from exporters.vision import VisionSpec


def read(config: dict[str, Any]) -> DecoderSpec:
    return qwen_vl.decoder(config, tower(config))


def tower(config: dict[str, Any]) -> VisionSpec:
    vision = config["vision_config"]
    hidden, wide, out = vision["hidden_size"], vision["intermediate_size"], vision["out_hidden_size"]
    patch, merge, frames = vision["patch_size"], vision["spatial_merge_size"], vision["temporal_patch_size"]
    deep, merged = tuple(vision["deepstack_visual_indexes"]), vision["spatial_merge_size"] ** 2 * hidden
    weights = vision["depth"] * (4 * hidden * hidden + 2 * hidden * wide) + (1 + len(deep)) * merged * (merged + out)
    return VisionSpec(
        blocks=vision["depth"],
        hidden=hidden,
        intermediate=wide,
        heads=vision["num_heads"],
        out_hidden=out,
        patch=patch,
        merge=merge,
        frames=frames,
        image_token=config["image_token_id"],
        video_token=config.get("video_token_id"),
        table=math.isqrt(vision["num_position_embeddings"]),
        deepstack=deep,
        steps_apart=True,
        size=(768, 768),
        parameters=weights + (3 * frames * patch**2 + vision["num_position_embeddings"]) * hidden,
    )


ARCHITECTURE: Architecture = replace(
    qwen_vl.ARCHITECTURE,
    model_types=("qwen3_vl",),
    layer_weights=qwen3.ARCHITECTURE.layer_weights,
    swaps=qwen3.ARCHITECTURE.swaps,
    stored=(),
    read=read,
)
