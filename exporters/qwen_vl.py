"""Qwen2-VL and Qwen2.5-VL: Qwen2 with positions in time, height and width, and a tower with a free grid of patches."""

from __future__ import annotations

from typing import Any

from exporters import qwen2
from exporters.architecture import Architecture
from exporters.parts import attention
from exporters.spec import DecoderSpec
from exporters.vision import Vision, VisionSpec

# Names of modules in files as published, and in a model that transformers has loaded.
STORED = (
    ("visual.", "model.visual."),
    *((f"model.{part}.", f"model.language_model.{part}.") for part in ("layers", "embed_tokens", "norm")),
)
PACE = 4  # positions per second of video, where a Qwen2.5-VL config.json does not say


def text(config: dict[str, Any]) -> dict[str, Any]:
    """The decoder's keys: on their own in newer files, among the others in those first published."""
    return {**config, **config.get("text_config", {}), "model_type": config["model_type"]}


def read(config: dict[str, Any]) -> DecoderSpec:
    return decoder(config, tower(config))


def decoder(config: dict[str, Any], vision: VisionSpec) -> DecoderSpec:
    """The decoder behind a tower, which Qwen3-VL reads alike."""
    tied = bool(config.get("tie_word_embeddings", text(config).get("tie_word_embeddings", False)))
    return qwen2.read(text(config), axes=3, vision=vision, tied=tied)


def tower(config: dict[str, Any]) -> VisionSpec:
    vision = config["vision_config"]
    windowed = "window_size" in vision or config["model_type"] == "qwen2_5_vl"
    hidden = vision["hidden_size"] if windowed else vision.get("embed_dim", 1280)
    out = vision["out_hidden_size"] if windowed else vision["hidden_size"]
    usual = (("patch_size", 14), ("spatial_merge_size", 2), ("temporal_patch_size", 2))
    patch, merge, frames = (vision.get(key, value) for key, value in usual)
    wide = vision["intermediate_size"] if windowed else int(hidden * vision.get("mlp_ratio", 4))
    blocks = vision["depth"]
    merged = merge**2 * hidden
    block = 4 * hidden * hidden + (3 if windowed else 2) * hidden * wide
    return VisionSpec(
        blocks=blocks,
        hidden=hidden,
        intermediate=wide,
        heads=vision["num_heads"],
        out_hidden=out,
        patch=patch,
        merge=merge,
        frames=frames,
        image_token=config["image_token_id"],
        video_token=config.get("video_token_id"),
        window=vision["window_size"] // patch if windowed else 0,
        full=tuple(vision["fullatt_block_indexes"]) if windowed else (),
        steps_per_second=float(vision.get("tokens_per_second", PACE)) if windowed else 0.0,
        parameters=blocks * block + 3 * frames * patch**2 * hidden + merged * (merged + out),
    )


VISION = Vision(
    root="model.visual",
    module="patches.towers:GridTower",
    swaps=(attention("attn", parts=("qkv",), out="proj", to="patches.towers:TowerAttention"),),
)

ARCHITECTURE = Architecture(
    model_types=("qwen2_vl", "qwen2_5_vl"),
    layer_weights=qwen2.ARCHITECTURE.layer_weights,
    swaps=(attention(q_apart=True),),
    embed="model.language_model.embed_tokens",
    layers="model.language_model.layers",
    norm="model.language_model.norm",
    rotary="model.language_model.rotary_emb",
    tables="patches.rotary:by_axis",
    auto="AutoModelForImageTextToText",
    stored=STORED,
    vision=VISION,
    read=read,
)
