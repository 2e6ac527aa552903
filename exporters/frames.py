"""Videos, for processors of Hugging Face whose own video processor needs torchvision.

A frame is prepared by the model's image processor, on Pillow, at the size that the video processor would choose; what
is added is only how frames are chosen and how two of them make a patch. No decoding (exporters.pictures does).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ChannelDimension, SizeDict
from transformers.models.glm4v.image_processing_pil_glm4v import smart_resize as resize_frames
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as resize_one
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as resize_all
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata, make_batched_metadata, make_batched_videos

Settings = dict[str, Any]


def _even(total: int, fps: float, wanted: float, settings: Settings) -> NDArray[np.int64]:
    """Qwen2-VL's `sample_frames`: a number of frames that fills its patches, from the first on at even steps."""
    step = settings["temporal_patch_size"]
    most = math.floor(min(settings["max_frames"], total) / step) * step
    count = math.floor(min(max(total / fps * wanted, settings["min_frames"]), most, total) / step) * step
    return torch.arange(0, total, total / count).int().numpy().astype(np.int64)


def _spread(total: int, fps: float, wanted: float, settings: Settings) -> NDArray[np.int64]:
    """Qwen3-VL's `sample_frames`: from the first frame to the last."""
    count = min(max(int(total / fps * wanted), settings["min_frames"]), settings["max_frames"], total)
    return np.linspace(0, total - 1, count).round().astype(np.int64)


def _timed(total: int, fps: float, wanted: float, settings: Settings) -> NDArray[np.int64]:
    """GLM-4.1V's `sample_frames`: each at its time, of a long video as many as of one of `max_duration`; the
    last one twice where their number is odd."""
    duration, longest = total / fps, settings["max_duration"]
    times = np.arange(max(math.floor(duration * wanted), 1)) / wanted
    numbers = [math.ceil(i * fps / wanted) for i in range(len(times))]
    if duration > longest:
        count = int(longest * wanted)
        seconds = np.linspace(0, duration, count)
        numbers = list(range(total)) if count >= total else [math.ceil(second * fps) for second in seconds]
    found = list(dict.fromkeys(min(total - 1, number) for number in numbers))
    return np.array([*found, *found[-1:] * (len(found) % 2)], np.int64)


def _size_of_one(count: int, height: int, width: int, low: int, high: int, settings: Settings) -> tuple[int, int]:
    factor = settings["patch_size"] * settings["merge_size"]
    bar_height, bar_width = resize_one(height, width, factor, low, high)
    return bar_height, bar_width


def _size_of_all(count: int, height: int, width: int, low: int, high: int, settings: Settings) -> tuple[int, int]:
    factor, step = settings["patch_size"] * settings["merge_size"], settings["temporal_patch_size"]
    bar_height, bar_width = resize_all(count, height, width, step, factor, low, high)
    return bar_height, bar_width


def _size_of_frames(count: int, height: int, width: int, low: int, high: int, settings: Settings) -> tuple[int, int]:
    factor, step = settings["patch_size"] * settings["merge_size"], settings["temporal_patch_size"]
    bar_height, bar_width = resize_frames(count, height, width, step, factor, low, high)
    return bar_height, bar_width


Resize = Callable[[int, int, int, int, int, Settings], tuple[int, int]]


@dataclass(frozen=True)
class Family:
    """`sample`: (frames there are, how many of them a second, how many a second are wanted, settings) to the numbers of
    those taken. `resize`: (frames, height, width, least and most pixels, settings) to a frame's height and width.
    `whole`: the limits are for all frames of a video together, else for each. `defaults`: of Hugging Face's class.
    `picture`: `resize` for a picture, which counts as `temporal_patch_size` frames."""

    sample: Callable[[int, float, float, Settings], NDArray[np.int64]]
    resize: Resize
    whole: bool
    defaults: Settings
    picture: Resize = _size_of_one


_COUNTS = {"min_frames": 4, "max_frames": 768, "temporal_patch_size": 2, "merge_size": 2}
QWEN2_VL = Family(
    _even,
    _size_of_one,
    False,
    {**_COUNTS, "patch_size": 14, "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768}},
)
QWEN3_VL = Family(
    _spread,
    _size_of_all,
    True,
    {**_COUNTS, "patch_size": 16, "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768}},
)
GLM4V = Family(
    _timed,
    _size_of_frames,
    True,
    {
        "max_duration": 300,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "patch_size": 14,
        "size": {"shortest_edge": 112 * 112, "longest_edge": 28 * 28 * 2 * 30000},
    },
    picture=_size_of_frames,
)
# By Hugging Face's processor class, which is what a checkpoint names.
FAMILIES = {
    "Qwen2VLProcessor": QWEN2_VL,
    "Qwen2_5_VLProcessor": QWEN2_VL,
    "Qwen3VLProcessor": QWEN3_VL,
    "Glm4vProcessor": GLM4V,
}


class Frames(VideoProcessorMixin):  # type: ignore[misc]
    """A video processor without torchvision. `max_pixels`: of a frame; None leaves the checkpoint's limit."""

    def __init__(self, family: Family, image_processor: Any, settings: Settings, max_pixels: int | None = None):
        settings = {**family.defaults, **{key: value for key, value in settings.items() if value is not None}}
        size = dict(settings["size"])
        size["shortest_edge"] = settings.get("min_pixels", size["shortest_edge"])
        size["longest_edge"] = settings.get("max_pixels", size["longest_edge"])
        super().__init__()
        self.size = size
        self._family, self._images, self._settings = family, image_processor, settings
        self.max_pixels = max_pixels
        self.merge_size, self.temporal_patch_size = settings["merge_size"], settings["temporal_patch_size"]
        self.patch_size = settings["patch_size"]

    def to_dict(self) -> Settings:
        """What transformers logs of it, as JSON."""
        return dict(self._settings)

    @classmethod
    def of(cls, folder: Path, processor_class: str, image_processor: Any, max_pixels: int | None) -> Frames | None:
        """For the checkpoint in `folder`; None where no family is known for its processor."""
        if processor_class not in FAMILIES:
            return None
        settings, _ = cls.get_video_processor_dict(folder, local_files_only=True)
        return cls(FAMILIES[processor_class], image_processor, settings, max_pixels)

    def limits(self, count: int) -> tuple[int, int]:
        """Least and most pixels that the family takes `count` frames with."""
        low, high = self.size["shortest_edge"], self.size["longest_edge"]
        if self.max_pixels is not None:
            high = min(high, self.max_pixels * (count if self._family.whole else 1))
        return min(low, high), high

    def picture(self, height: int, width: int, limits: Mapping[str, int]) -> tuple[int, int]:
        """A picture's height and width within `limits`. ValueError as in grid."""
        low, high = limits["shortest_edge"], limits["longest_edge"]
        return self._family.picture(self.temporal_patch_size, height, width, low, high, self._settings)

    def grid(self, count: int, height: int, width: int) -> tuple[int, int, int]:
        """Patches (t, h, w) of a video. ValueError for a shape that Hugging Face refuses."""
        high, wide = self._family.resize(count, height, width, *self.limits(count), self._settings)
        return -(-count // self.temporal_patch_size), high // self.patch_size, wide // self.patch_size

    def sample(self, total: int, fps: float, wanted_fps: float) -> NDArray[np.int64]:
        """The numbers of those of `total` frames, `fps` a second, that are taken for `wanted_fps` a second.
        ValueError where there are fewer than make a patch."""
        if total < self.temporal_patch_size:
            raise ValueError(f"it says that it has {total} frames; {self.temporal_patch_size} are needed")
        return self._family.sample(total, fps, wanted_fps, self._settings)

    def __call__(self, videos: Any, video_metadata: Any = None, **_: Any) -> BatchFeature:
        """Videos [frames, height, width, 3] uint8, already sampled, as Hugging Face's video processors give them."""
        videos = make_batched_videos(videos)
        metadata: list[VideoMetadata] = make_batched_metadata(videos, video_metadata)
        prepared = [self._prepare(np.asarray(video)) for video in videos]
        data = {
            "pixel_values_videos": np.concatenate([patches for patches, _ in prepared]),
            "video_grid_thw": np.array([grid for _, grid in prepared], np.int64),
            "video_metadata": metadata,
        }
        return BatchFeature(data)

    def _prepare(self, video: NDArray[np.uint8]) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
        t, h, w = grid = self.grid(len(video), *video.shape[1:3])
        size = SizeDict(height=h * self.patch_size, width=w * self.patch_size)
        images, step = self._images, self.temporal_patch_size
        frames = [
            # The image processor's own `resize` would choose a size by the rule for pictures.
            PilBackend.resize(images, np.moveaxis(frame, -1, 0), size, images.resample)
            for frame in (*video, *[video[-1]] * (-len(video) % step))
        ]
        patches = images(frames, do_resize=False, input_data_format=ChannelDimension.FIRST)["pixel_values"]
        # A picture's patch holds the picture `step` times; a video's holds `step` frames.
        apart = patches.reshape(t, step, h * w, 3, step, -1)[:, :, :, :, 0]
        return np.ascontiguousarray(apart.transpose(0, 2, 3, 1, 4)).reshape(t * h * w, -1), grid
