"""InternVL 2 to 3 in transformers' form: InternViT, whose patches are shuffled four to a row, in front of Qwen2, Qwen3
or Llama. A picture comes as tiles and a thumbnail, each a picture to the tower."""

from __future__ import annotations

from typing import Any

from contract.errors import UserError
from exporters import llama, qwen2, qwen3
from exporters.one_size import attention, beside, side, vision_spec
from exporters.vision import Vision, VisionSpec

VISION = Vision(
    root="model",
    module="patches.pictures:InternTower",
    swaps=(attention("attention", "projection_layer"),),
    blocks="vision_tower.encoder.layer",
)


def tower(config: dict[str, Any]) -> VisionSpec:
    vision, merge = config["vision_config"], round(1 / config.get("downsample_ratio", 0.5))
    if vision.get("use_qk_norm") or config.get("vision_feature_layer", -1) != -1:
        what = "a tower with norms of q and k, or whose last layer is left out, is unknown"
        raise UserError(what, remedy="take InternVL 2 to 3 with the tower of 300 million weights")
    patches = (side(vision["image_size"]) // side(vision["patch_size"])) ** 2
    return vision_spec(
        vision,
        merge=merge,
        rows=patches // merge**2,
        out_hidden=config["text_config"]["hidden_size"],
        image_token=config["image_token_id"],
    )


TEXTS = {name: table.ARCHITECTURE for name, table in (("qwen2", qwen2), ("qwen3", qwen3), ("llama", llama))}
ARCHITECTURES = beside("internvl", TEXTS, VISION, tower, {})
