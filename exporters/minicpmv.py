"""MiniCPM-V 2.6: SigLIP over any grid of patches and a resampler that makes 64 rows of it, in front of Qwen2. A large
picture comes as itself, made smaller, and as slices, each a picture to the tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from contract.errors import UserError
from exporters import qwen2
from exporters.architecture import Architecture
from exporters.one_size import in_remote
from exporters.parts import attention
from exporters.rows import Rows
from exporters.spec import DecoderSpec
from exporters.vision import Vision, VisionSpec

VERSION = 2.6
UNK = 128244  # the token that stands for a row: the tokenizer's, which config.json does not name
HEAD, SIDE = 128, 70  # of the resampler: channels of a head, and the side of its table of positions
# The most that rounding makes of slices of 448 x 448 pixels, up to 4.8 times as long as wide: 1056 patches.
SIZE = (448, 462)


def taken(spec: VisionSpec) -> Mapping[str, tuple[str, Rows]]:
    """torch's attention has q, k and v in one parameter, and q is of other states than k, and k than v."""
    size = spec.out_hidden
    found: dict[str, tuple[str, Rows]] = {}
    for number, name in enumerate("qkv"):
        rows = ((number * size, (number + 1) * size, 1),)
        found |= {f"{name}.{kind}": (f"resampler.attn.in_proj_{kind}", rows) for kind in ("weight", "bias")}
    return found


VISION = Vision(
    root="",
    module="patches.slices:SliceTower",
    swaps=(attention(out="out_proj"),),
    blocks="vpm.encoder.layers",
    whole="patches.whole:MiniCpm",
    taken=taken,
)


def tower(config: dict[str, Any]) -> VisionSpec:
    vision, out = config["vision_config"], config["hidden_size"]
    hidden, wide, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    blocks, side = vision["num_hidden_layers"] - bool(config.get("drop_vision_last_layer")), vision["image_size"]
    if hidden == out or out % HEAD or side // patch > SIDE:
        what = f"a resampler from {hidden} to {out} channels over {side // patch} patches a side is unknown"
        raise UserError(what, remedy="take MiniCPM-V 2.6 or MiniCPM-o 2.6 as published")
    weights = blocks * (4 * hidden**2 + 2 * hidden * wide) + hidden * ((side // patch) ** 2 + 3 * patch**2)
    return VisionSpec(
        blocks=blocks,
        hidden=hidden,
        intermediate=wide,
        heads=vision["num_attention_heads"],
        out_hidden=out,
        patch=patch,
        image_token=config.get("image_token_id", UNK),
        parameters=weights + hidden * out + 5 * out**2,
        table=side // patch,
        queries=config["query_num"],
        size=SIZE,
    )


def read(config: dict[str, Any]) -> DecoderSpec:
    if float(config.get("version", VERSION)) != VERSION:
        what = f"version {config['version']} of {config['model_type']} is unknown"
        raise UserError(what, remedy=f"take version {VERSION}")
    return replace(qwen2.read(config), vision=tower(config))


def architecture(model_type: str) -> Architecture:
    return replace(in_remote(qwen2.ARCHITECTURE, "llm"), model_types=(model_type,), vision=VISION, read=read)


ARCHITECTURE = architecture("minicpmv")
