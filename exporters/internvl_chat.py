"""InternVL 2 and 2.5 with the code that comes with them: InternViT, whose patches are shuffled four to a row, in front
of InternLM2 or Qwen2. A picture comes as tiles and a thumbnail, each a picture to the tower."""

from __future__ import annotations

from functools import partial
from typing import Any

from contract.errors import UserError
from exporters import internlm2, qwen2
from exporters.one_size import beside, in_remote, side, vision_spec
from exporters.parts import attention
from exporters.vision import Vision, VisionSpec

VISION = Vision(
    root="",
    module="patches.pictures:InternChatTower",
    swaps=(attention("attn", ("qkv",), "proj", to="patches.pictures:PlainPictureAttention"),),
    blocks="vision_model.encoder.layers",
    whole="patches.whole:InternChat",
)
TEXT = "llm_config"
# Nine tokens stand behind a decoder's own: <img>, </img>, <IMG_CONTEXT> and six for boxes and the like. config.json
# does not name their ids.
CONTEXT_FROM_END = 7


def tower(config: dict[str, Any]) -> VisionSpec:
    vision, merge = config["vision_config"], round(1 / config.get("downsample_ratio", 0.5))
    _check(config, vision)
    layer, whole = config.get("select_layer", -1), vision["num_hidden_layers"]
    patches = (side(vision["image_size"]) // side(vision["patch_size"])) ** 2
    return vision_spec(
        {**vision, "num_hidden_layers": layer if layer >= 0 else whole + 1 + layer},
        merge=merge,
        rows=patches // merge**2,
        out_hidden=config[TEXT]["hidden_size"],
        image_token=config[TEXT]["vocab_size"] - CONTEXT_FROM_END,
    )


def _check(config: dict[str, Any], vision: dict[str, Any]) -> None:
    other = "take InternVL 2 or 2.5 with the tower of 300 million weights"
    if vision.get("qk_normalization"):
        raise UserError("a tower with norms of q and k is unknown", remedy=other)
    if config.get("ps_version", "v2") != "v2":
        raise UserError("patches shuffled by ps_version v1 are unknown", remedy=other)
    if (forced := config.get("force_image_size")) and forced != vision["image_size"]:
        what = f"pictures of {forced} pixels for a tower made for {vision['image_size']} are unknown"
        raise UserError(what, remedy=other)


TEXTS = {"internlm2": internlm2.ARCHITECTURE, "qwen2": qwen2.ARCHITECTURE}
ARCHITECTURES = beside("internvl_chat", TEXTS, VISION, tower, {}, TEXT, partial(in_remote, at="language_model"))
