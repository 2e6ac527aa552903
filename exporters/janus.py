"""Janus and Janus-Pro, what of them sees: SigLIP and an aligner in front of Llama. Pictures it makes are left out."""

from __future__ import annotations

from typing import Any

from contract.errors import UserError
from exporters import llama
from exporters.one_size import attention, beside, side, vision_spec
from exporters.vision import Vision, VisionSpec

VISION = Vision(
    root="model",
    module="patches.pictures:JanusTower",
    swaps=(attention("self_attn", "projection_layer"),),
    blocks="vision_model.encoder.layers",
)
# What the published config.json leaves to the class.
TOWER = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 384, "patch_size": 16}


def tower(config: dict[str, Any]) -> VisionSpec:
    vision = {**TOWER, **config["vision_config"]}
    if vision.get("use_qk_norm"):
        raise UserError("a tower with norms of q and k is unknown", remedy="take Janus or Janus-Pro as published")
    wide = int(vision["hidden_size"] * vision.get("mlp_ratio", 4))
    return vision_spec(
        {**vision, "intermediate_size": wide},
        merge=1,
        rows=(side(vision["image_size"]) // side(vision["patch_size"])) ** 2,
        out_hidden=config["text_config"]["hidden_size"],
        image_token=config.get("image_token_id", 100581),
    )


ARCHITECTURES = beside("janus", {"llama": llama.ARCHITECTURE}, VISION, tower, {})
