"""Gemma 3 that sees: SigLIP, its patches averaged to 256 rows, in front of Gemma 3; a picture's rows see each other."""

from __future__ import annotations

from typing import Any

from exporters import gemma3
from exporters.one_size import attention, beside, vision_spec
from exporters.vision import Vision, VisionSpec

VISION = Vision(
    root="model",
    module="patches.pictures:SiglipTower",
    swaps=(attention("self_attn", "out_proj"),),
    blocks="vision_tower.encoder.layers",
)
# What the published config.json leaves to the class.
USUAL = {
    "gemma3_text": {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    }
}


def tower(config: dict[str, Any]) -> VisionSpec:
    return vision_spec(
        config["vision_config"],
        merge=1,
        rows=config.get("mm_tokens_per_image", 256),
        out_hidden=config["text_config"]["hidden_size"],
        image_token=config.get("image_token_index", config.get("image_token_id", 262144)),
        together=True,
    )


ARCHITECTURES = beside("gemma3", {"gemma3_text": gemma3.ARCHITECTURE}, VISION, tower, USUAL)
