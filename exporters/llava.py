"""LLaVA 1.5: CLIP's patches, as they are before its last layer, in front of Llama."""

from __future__ import annotations

from typing import Any

from contract.errors import UserError
from exporters import llama
from exporters.one_size import attention, beside, vision_spec
from exporters.vision import Vision, VisionSpec

VISION = Vision(
    root="model",
    module="patches.pictures:ClipTower",
    swaps=(attention("self_attn", "out_proj"),),
    blocks="vision_tower.encoder.layers",
)
# What the published config.json leaves to the class.
USUAL = {
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "vocab_size": 32000,
    }
}


def tower(config: dict[str, Any]) -> VisionSpec:
    vision, layer = config["vision_config"], config.get("vision_feature_layer", -2)
    if not isinstance(layer, int) or config.get("vision_feature_select_strategy", "default") != "default":
        raise UserError("features of several layers of the tower are unknown", remedy="take a LLaVA 1.5 checkpoint")
    whole = vision["num_hidden_layers"]
    blocks = layer if layer >= 0 else whole + 1 + layer
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return vision_spec(
        {**vision, "num_hidden_layers": blocks},
        merge=1,
        rows=patches,
        out_hidden=config["text_config"]["hidden_size"],
        image_token=config.get("image_token_index", config.get("image_token_id", 32000)),
    )


ARCHITECTURES = beside("llava", {"llama": llama.ARCHITECTURE}, VISION, tower, USUAL)
