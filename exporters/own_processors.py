"""Checkpoints that see and bring their own code to prepare pictures: transformers' classes that do the same, set by the
checkpoint's own files. No code of the checkpoint is run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contract.errors import UserError

Settings = Mapping[str, Any]
SLICE, MERGED = 448, 4  # MiniCPM-V's: pixels of a slice's side; patches that its latest tower merges a side
ROUNDING = 33 / 32  # a slice's sides are rounded to patches, which makes it larger by so much at most
PLACE = "(<image>./</image>)"
LOOK = {"image_mean": "norm_mean", "image_std": "norm_std"}
WORDS = {
    "im_start": "<image>",
    "im_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "unk": "<unk>",
    "im_id_start": "<image_id>",
    "im_id_end": "</image_id>",
}


@dataclass(frozen=True)
class Own:
    """`processor`, `images`: transformers' class of processor, and its image processor, of which the first gets
    `settings`. `tokens`: the tokenizer's, by the names that the processor knows them by. `place`: what stands for a
    picture in a message, since templates of such checkpoints take texts alone; `video`: likewise, empty where it takes
    none; `between`: between its parts."""

    processor: Any
    images: Any
    place: str
    video: str = ""
    between: str = ""
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
        places = {"image": self.place, "video": self.video}
        return self.between.join(places.get(part["type"]) or part.get("text", "") for part in content)


def find(folder: Path, max_pixels: int | None = None) -> Own | None:
    """Of the checkpoint or config in `folder`; None where transformers prepares its pictures by itself. UserError for
    settings that are not known here."""
    config = read(folder / "config.json")
    known = KNOWN.get(config.get("model_type", ""))
    return known(config, read(folder / "preprocessor_config.json"), max_pixels) if known else None


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
    # What stands for a video is a token of transformers' form alone; the processor puts its frames there.
    named, places = {**tokens, "video_token": "<video>"}, ("<IMG_CONTEXT>\n", "<video>\n")
    return Own(InternVLProcessor, images, *places, settings={"image_seq_length": vision.rows}, tokens=named)


def _minicpm(config: Settings, pictures: Settings, max_pixels: int | None) -> Own:
    if not pictures.get("slice_mode", True):
        raise UserError("pictures that are not sliced are unknown", remedy="take MiniCPM-V 2.6 as published")
    side = pictures.get("scale_resolution", SLICE)
    if max_pixels is not None:
        side = min(side, round(math.sqrt(max_pixels / ROUNDING)))
    images = slices(
        max_slice_nums=pictures.get("max_slice_nums", 9),
        patch_size=pictures.get("patch_size", 14),
        scale_resolution=side,
        **{ours: pictures[theirs] for ours, theirs in LOOK.items() if theirs in pictures},
    )
    words = {name: pictures.get(name, usual) for name, usual in WORDS.items()}
    rows = pictures.get("image_feature_size", config.get("query_num", 64))
    told = {"words": words, "rows": rows, "numbered": pictures.get("use_image_id", True)}
    return Own(Slicing, images, PLACE, between="\n", settings=told)


def slices(**settings: Any) -> Any:
    """MiniCPM-V 2.6's image processor: transformers' for 4.6, whose tower merges 4 x 4 patches, so that pictures there
    have sides of 4 patches' multiples."""
    from transformers import MiniCPMV4_6ImageProcessorPil

    merging: Any = MiniCPMV4_6ImageProcessorPil

    class Slices(merging):  # type: ignore[misc]
        def find_best_resize(
            self, image_size: Any, scale_resolution: int, patch_size: int, downsample_mode: str, **how: bool
        ) -> tuple[int, int]:
            high, wide = super().find_best_resize(image_size, scale_resolution, patch_size / MERGED, "16x", **how)
            return int(high), int(wide)

    return Slices(**settings)


class Slicing:
    """What MiniCPM-V 2.6 says around slices; called as transformers' processors are. `words`: WORDS as the checkpoint
    has them. `rows`: of each slice. `numbered`: each picture has its number before it."""

    chat_template = None

    def __init__(self, image_processor: Any, tokenizer: Any, words: Settings, rows: int, numbered: bool) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self._words, self._rows, self._numbered = words, rows, numbered

    @staticmethod
    def get_attributes() -> list[str]:
        return ["image_processor", "tokenizer"]

    @classmethod
    def from_args_and_dict(cls, held: list[Any], settings: dict[str, Any]) -> Slicing:
        return cls(*held, **settings)

    def __call__(self, text: list[str], text_kwargs: dict[str, Any], images: list[Any] | None) -> dict[str, Any]:
        """ValueError for a text with another number of places."""
        pieces, images = text[0].split(PLACE), images or []
        if len(pieces) != len(images) + 1:
            raise ValueError(f"{len(images)} pictures for {len(pieces) - 1} places")
        made = self.image_processor(images) if images else {}
        shown = [self._shown(number, grid) for number, grid in enumerate(made.get("grids", ()))]
        whole = pieces[0] + "".join(one + piece for one, piece in zip(shown, pieces[1:], strict=True))
        found = {"input_ids": [self.tokenizer(whole, **text_kwargs)["input_ids"]]}
        if not images:
            return found
        patch = self.image_processor.patch_size
        patches = made["pixel_values"][0].reshape(3, patch, -1, patch).transpose(2, 0, 1, 3)
        grids = [(1, int(h), int(w)) for h, w in made["target_sizes"]]
        return {**found, "pixel_values": patches.reshape(len(patches), -1), "image_grid_thw": grids}

    def _shown(self, number: int, grid: list[int]) -> str:
        """`grid`: rows and columns of slices, 0 where a picture is not cut."""
        w = self._words
        rows = w["unk"] * self._rows
        first = f"{w['im_id_start']}{number}{w['im_id_end']}" if self._numbered else ""
        slices = "\n".join([(w["slice_start"] + rows + w["slice_end"]) * grid[1]] * grid[0])
        return f"{first}{w['im_start']}{rows}{w['im_end']}{slices}"


KNOWN: dict[str, Callable[[Settings, Settings, int | None], Own]] = {
    "internvl_chat": _intern,
    "minicpmv": _minicpm,
    "minicpmo": _minicpm,
}


def read(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint, {} where it is not there. UserError for what is not JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"not JSON ({error})", str(path), "fetch the checkpoint's file again") from error
    return found if isinstance(found, dict) else {}
