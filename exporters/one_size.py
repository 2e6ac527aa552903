"""What models share that put a tower of one picture size in front of a decoder that stands on its own elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from contract.errors import UserError, one_of
from exporters import parts
from exporters.architecture import Architecture, Swap
from exporters.spec import DecoderSpec
from exporters.vision import Vision, VisionSpec

# Names of tensors in files as published, and in a model that transformers has loaded.
STORED = (
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
)


def side(value: Any) -> int:
    """Pixels of a picture's or patch's side, which some files give twice. UserError for sides that differ."""
    high, wide = value if isinstance(value, list | tuple) else (value, value)
    if high != wide:
        raise UserError(f"pictures or patches of {high} x {wide} pixels are no squares", remedy="take another model")
    return int(high)


def vision_spec(vision: Mapping[str, Any], **known: Any) -> VisionSpec:
    """The keys that such towers have in common. `known`: fields of VisionSpec."""
    hidden, wide, blocks = vision["hidden_size"], vision["intermediate_size"], vision["num_hidden_layers"]
    picture, patch = side(vision["image_size"]), side(vision["patch_size"])
    weights = blocks * (4 * hidden * hidden + 2 * hidden * wide) + hidden * ((picture // patch) ** 2 + 3 * patch**2)
    fields: dict[str, Any] = {
        "blocks": blocks,
        "hidden": hidden,
        "intermediate": wide,
        "heads": vision["num_attention_heads"],
        "patch": patch,
        "picture": picture,
        "size": (picture, picture),
        **known,
    }
    return VisionSpec(**fields, parameters=weights + projector(fields))


def projector(fields: Mapping[str, Any]) -> int:
    """Weights between tower and decoder, at most: two matmuls on merged patches."""
    return int((fields["hidden"] * fields["merge"] ** 2 + fields["out_hidden"]) * fields["out_hidden"])


def attention(at: str, out: str) -> Swap:
    """Of such a tower's blocks."""
    return parts.attention(at, out=out, to="patches.pictures:PictureAttention")


def beside(
    model_type: str,
    texts: Mapping[str, Architecture],
    vision: Vision,
    tower: Callable[[dict[str, Any]], VisionSpec],
    usual: Mapping[str, Mapping[str, Any]],
    key: str = "text_config",
    held: Callable[[Architecture], Architecture] | None = None,
) -> tuple[Architecture, ...]:
    """A table for `model_type`, and one for each decoder that it may hold, by that one's own model_type. `usual`:
    values of text_config, or whatever its `key` is, that published files leave out, since the class has them. `held`:
    a decoder's table, with its modules where they lie in the whole model; None for transformers' own."""

    def read(config: dict[str, Any]) -> DecoderSpec:
        text = config[key]
        kind = text.get("model_type", next(iter(texts)))
        if kind not in texts:
            what = f"{model_type} models with a decoder of model_type {kind!r} are unknown"
            raise UserError(what, remedy=f"known are those with {one_of(texts)}")
        merged = {**usual.get(kind, {}), **text, "model_type": f"{model_type}:{kind}"}
        if (tied := config.get("tie_word_embeddings")) is not None:
            merged["tie_word_embeddings"] = tied
        merged.setdefault("dtype", config.get("dtype") or config.get("torch_dtype"))
        spec = texts[kind].read(merged)
        return replace(spec, vision=tower({**config, key: merged}))

    def table(name: str, text: Architecture) -> Architecture:
        return replace((held or _in_transformers)(text), model_types=(name,), vision=vision, read=read)

    first = next(iter(texts.values()))
    return (table(model_type, first), *(table(f"{model_type}:{kind}", text) for kind, text in texts.items()))


def _in_transformers(text: Architecture) -> Architecture:
    return replace(
        text,
        embed="model.language_model.embed_tokens",
        layers="model.language_model.layers",
        norm="model.language_model.norm",
        rotary="model.language_model.rotary_emb",
        auto="AutoModelForImageTextToText",
        stored=STORED,
    )


def in_remote(text: Architecture, at: str) -> Architecture:
    """A decoder that lies whole at `at` in a model whose code comes with the checkpoint."""
    places = {name: f"{at}.{getattr(text, name)}" for name in ("embed", "layers", "norm", "head", "rotary")}
    changes: dict[str, Any] = {**places, "tables": text.tables or "patches.rotary:whole", "remote": True}
    return replace(text, **changes)
