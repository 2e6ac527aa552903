"""How many positions of a prompt pictures and videos take: Hugging Face's arithmetic, without weights and pixels.

Text is not counted, and neither are the tokens that some models put around a picture or between the frames of a video.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.errors import UserError
from contract.vision import Grid, Pictures, Tower
from exporters import own_processors, processor
from exporters.vision import Size, VisionSpec

if TYPE_CHECKING:
    from exporters.frame_pictures import FramePictures
    from exporters.frames import Frames


@dataclass(frozen=True)
class Published:
    """What the published checkpoints say outside of config.json, which is all that a recipe has. `processor`,
    `images`: Hugging Face's classes, or a function of exporters.own_processors; `image`, `video`: how pictures and
    videos are prepared."""

    processor: str
    images: str
    image: dict[str, Any] = field(default_factory=dict)
    video: dict[str, Any] = field(default_factory=dict)


_QWEN2_IMAGES = "Qwen2VLImageProcessorPil"
_QWEN2_LIMITS = {"min_pixels": 3136, "max_pixels": 12845056}
PUBLISHED = {
    "qwen2_vl": Published("Qwen2VLProcessor", _QWEN2_IMAGES, _QWEN2_LIMITS, _QWEN2_LIMITS),
    "qwen2_5_vl": Published("Qwen2_5_VLProcessor", _QWEN2_IMAGES, _QWEN2_LIMITS, _QWEN2_LIMITS),
    "qwen3_vl": Published(
        "Qwen3VLProcessor",
        _QWEN2_IMAGES,
        {"min_pixels": 65536, "max_pixels": 16777216},
        {"min_pixels": 4096, "max_pixels": 25165824},
    ),
    "glm4v": Published(
        "Glm4vProcessor",
        "Glm4vImageProcessorPil",
        {"size": {"shortest_edge": 12544, "longest_edge": 9633792}},
        {"size": {"shortest_edge": 12544, "longest_edge": 47040000}},
    ),
    "internvl": Published(
        "InternVLProcessor",
        "GotOcr2ImageProcessorPil",
        {"size": {"height": 448, "width": 448}, "min_patches": 1, "max_patches": 12},
    ),
    "internvl_chat": Published(
        "InternVLProcessor",
        "GotOcr2ImageProcessorPil",
        {"size": {"height": 448, "width": 448}, "min_patches": 1, "max_patches": 12},
    ),
    "minicpmv": Published("MiniCPMVProcessor", "slices"),
    "minicpmo": Published("MiniCPMOProcessor", "slices"),
    "gemma3": Published("Gemma3Processor", "Gemma3ImageProcessorPil"),
    "llava": Published("LlavaProcessor", "CLIPImageProcessorPil"),
    "janus": Published("JanusProcessor", "JanusImageProcessorPil"),
}


@dataclass(frozen=True)
class Count:
    """`how`: the arithmetic that gives `tokens`."""

    what: str
    how: str
    tokens: int

    def __str__(self) -> str:
        return f"{self.what}: {self.how} = {self.tokens}"


class Counter:
    """For one model. `images`, `frames`: Hugging Face's image processor, and what prepares videos. `size`: height and
    width of the largest picture in pixels."""

    def __init__(self, spec: VisionSpec, images: Any, frames: Frames | FramePictures | None, size: Size) -> None:
        self._spec, self._images, self._frames, self._size = spec, images, frames, size

    def image(self, height: int, width: int) -> Count:
        """UserError for a shape that Hugging Face refuses."""
        what = f"image {height}x{width}"
        if self._spec.picture:
            tiles = self._tiles(height, width)
            shown = "1 picture" if tiles == 1 else f"{tiles - 1} tiles and a thumbnail, {tiles}"
            return Count(what, f"{shown} x {self._spec.rows}", tiles * self._spec.rows)
        if self._spec.queries:
            grid = self._images.get_sliced_grid(
                (height, width), self._images.max_slice_nums, self._images.scale_resolution
            )
            cut = grid[0] * grid[1] if grid else 0
            shown = f"the whole and {cut} slices, {cut + 1}" if cut else "1 picture"
            return Count(what, f"{shown} x {self._spec.queries}", (cut + 1) * self._spec.queries)
        from exporters.frames import Frames

        limits = processor.limits(self._images, self._size[0] * self._size[1])
        assert limits
        assert isinstance(self._frames, Frames)
        with _refusing(what):
            high, wide = self._frames.picture(height, width, limits)
        return self._of_grid(what, (1, high // self._spec.patch, wide // self._spec.patch))

    def video(self, seconds: float, fps: float, size: Size | None = None) -> Count:
        """Of `seconds` at `fps` frames a second, of `size` before they are resized; None for one that is resized to
        half the sides of the largest picture. UserError for what the model does not take."""
        from exporters.frame_pictures import FramePictures

        what, count = f"video of {seconds:g} s", round(seconds * fps)
        if self._frames is None:
            raise UserError(f"{what}: this model takes no videos", remedy="give pictures in place of it")
        if count < 1:
            raise UserError(f"{what}: no frames at {fps:g} a second", "--fps", "give more")
        if isinstance(self._frames, FramePictures):
            return Count(what, f"{count} frames x {self._spec.rows}", count * self._spec.rows)
        with _refusing(what):
            grid = self._frames.grid(count, *(size or (self._size[0] // 2, self._size[1] // 2)))
        return self._of_grid(what, grid, count)

    def _tiles(self, height: int, width: int) -> int:
        if not hasattr(self._images, "crop_to_patches"):
            return 1
        return int(self._images.get_number_of_image_patches(height, width, {"crop_to_patches": True}))

    def _of_grid(self, what: str, grid: Grid, frames: int = 0) -> Count:
        (t, h, w), patch, merge = grid, self._spec.patch, self._spec.merge
        shown = f"{frames} frames of " if frames else ""
        return Count(what, f"{shown}{h * patch}x{w * patch} pixels, {patches(grid, merge)}", t * h * w // merge**2)


def patches(grid: Grid, merge: int) -> str:
    """The arithmetic of a grid of patches, of which `merge` by `merge` make one token."""
    t, h, w = grid
    return f"{f'{t} x ' if t > 1 else ''}{h} x {w} patches / {merge**2}"


def counter(spec: VisionSpec, model_type: str, folder: Path | None, size: Size | None = None) -> Counter:
    """For the checkpoint in `folder`; None for the published one of that type. `size`: of the largest picture; None
    for the usual one. UserError where nothing is known of how the model prepares pictures."""
    size = size or spec.size
    most = size[0] * size[1]
    if folder is not None:
        _, images, frames = processor.parts(folder, most, own_processors.find(folder, most))
        return Counter(spec, images, frames, size)
    import transformers

    from exporters.frame_pictures import PROCESSORS, FramePictures
    from exporters.frames import FAMILIES, Frames

    name = model_type.split(":")[0]  # what follows is the decoder's
    if name not in PUBLISHED:
        raise UserError(f"nothing is known of how {name} prepares pictures", "--model", "name a checkpoint")
    said, sides = PUBLISHED[name], {}
    if not spec.picture and not spec.queries:
        sides = {"patch_size": spec.patch, "merge_size": spec.merge, "temporal_patch_size": spec.frames}
    maker = getattr(own_processors, said.images, None) or getattr(transformers, said.images)
    images = maker(**said.image, **sides)
    family = FAMILIES.get(said.processor)
    frames = Frames(family, images, said.video | sides, processor.share(most)) if family else None
    return Counter(spec, images, FramePictures(images) if said.processor in PROCESSORS else frames, size)


def explain(pictures: Pictures, tower: Tower, tokens: int) -> str:
    """Where the `tokens` of a prompt with pictures come from: "pictures 48 x 64 patches / 4 = 768, text 20"."""
    shown = [tower.rows_of(grid) for grid in pictures.grids] or [tower.rows] * len(pictures.pixels)
    alike = [f"{len(shown)} x {tower.rows}"] if tower.queries or not pictures.grids else []
    parts = alike or [patches(grid, tower.merge) for grid in pictures.grids]
    return f"pictures {' + '.join(parts)} = {sum(shown)}, text {tokens - sum(shown)}"


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UserError(f"{what}: the model takes no such shape ({error})") from error
