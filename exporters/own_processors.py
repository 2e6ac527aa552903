"""Checkpoints that see and bring their own code to prepare pictures: transformers' classes that do the same, set by the
checkpoint's own files. No code of the checkpoint is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contract.errors import UserError

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Own:
    """`processor`, `images`: transformers' class of processor, and its image processor, of which the first gets
    `settings`. `tokens`: the tokenizer's, by the names that the processor knows them by. `place`: what stands for a
    picture in a message, since templates of such checkpoints take texts alone."""

    processor: Any
    images: Any
    place: str
    settings: dict[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)

    def name(self, tokenizer: Any) -> Any:
        """`tokenizer`, which then knows `tokens`."""
        for name, token in self.tokens.items():
            setattr(tokenizer, name, token)
            setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
        return tokenizer

    def text(self, content: str | list[dict[str, Any]]) -> str:
        """A message's content without the pictures themselves."""
        if isinstance(content, str):
            return content
        return "".join(self.place if part["type"] == "image" else part.get("text", "") for part in content)


def find(folder: Path, max_pixels: int | None = None) -> Own | None:
    """Of the checkpoint or config in `folder`; None where transformers prepares its pictures by itself. UserError for
    settings that are not known here."""
    config = _read(folder / "config.json")
    known = KNOWN.get(config.get("model_type", ""))
    return known(config, _read(folder / "preprocessor_config.json"), max_pixels) if known else None


def _intern(config: Settings, pictures: Settings, max_pixels: int | None) -> Own:
    from transformers import GotOcr2ImageProcessorPil, InternVLProcessor

    from exporters.spec import from_config

    tiled = config.get("dynamic_image_size", False)
    if tiled and not config.get("use_thumbnail", False):
        raise UserError("tiles without a thumbnail are unknown", remedy="take InternVL 2 or 2.5 as published")
    vision = from_config("internvl_chat", config, "config.json").vision
    assert vision
    look = {key: pictures[key] for key in ("image_mean", "image_std") if key in pictures}
    tiles = {"min_patches": config.get("min_dynamic_patch", 1), "max_patches": config.get("max_dynamic_patch", 6)}
    side = {"height": vision.picture, "width": vision.picture}
    images = GotOcr2ImageProcessorPil(size=side, **look, **(tiles if tiled else {"min_patches": 1, "max_patches": 1}))
    tokens = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    # It takes no videos, but asks what stands for one.
    named = {**tokens, "video_token": "<video>"}
    return Own(InternVLProcessor, images, "<IMG_CONTEXT>\n", {"image_seq_length": vision.rows}, named)


KNOWN: dict[str, Callable[[Settings, Settings, int | None], Own]] = {"internvl_chat": _intern}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"not JSON ({error})", str(path), "fetch the checkpoint's file again") from error
    return found if isinstance(found, dict) else {}
