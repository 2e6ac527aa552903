"""Videos of models to which a frame is a picture of the tower's one size, as InternVL's.

Hugging Face's own video processor needs torchvision. Here the model's image processor, on Pillow, prepares the frames;
what is added is only how frames are chosen. No decoding (exporters.pictures does).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.feature_extraction_utils import BatchFeature
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata, make_batched_metadata, make_batched_videos

# Hugging Face's processor classes, which is what a checkpoint names.
PROCESSORS = ("InternVLProcessor",)


class FramePictures(VideoProcessorMixin):  # type: ignore[misc]
    """A video processor without torchvision. `shift`: as InternVL's `initial_shift`, True: frames from the middle of
    the stretches that they stand for."""

    def __init__(self, image_processor: Any, shift: bool | float = True):
        super().__init__()
        self._images, self._shift = image_processor, shift

    def to_dict(self) -> dict[str, Any]:
        """What transformers logs of it, as JSON."""
        return {"initial_shift": self._shift}

    @classmethod
    def of(cls, folder: Path, processor_class: str, image_processor: Any) -> FramePictures | None:
        """For the checkpoint in `folder`; None where its processor is none of PROCESSORS, or wants frames of another
        size than pictures, which its tower would not take."""
        if processor_class not in PROCESSORS:
            return None
        settings, _ = cls.get_video_processor_dict(folder, local_files_only=True)
        alike = dict(settings.get("size") or image_processor.size) == dict(image_processor.size)
        return cls(image_processor, settings.get("initial_shift", True)) if alike else None

    def sample(self, total: int, fps: float, wanted_fps: float) -> NDArray[np.int64]:
        """The numbers of those of `total` frames, `fps` a second, that are taken for `wanted_fps` a second: InternVL's
        `sample_frames`, but one frame at least, and none twice."""
        count = min(max(1, int(total / fps * wanted_fps)), total)
        start = total / count / 2 if self._shift is True else float(self._shift)
        return torch.arange(start, total, total / count).int().numpy().astype(np.int64)

    def __call__(self, videos: Any, video_metadata: Any = None, **_: Any) -> BatchFeature:
        """Videos [frames, height, width, 3] uint8, already sampled, as Hugging Face's video processor gives them:
        [videos, frames, 3, height, width]. ValueError for videos of different lengths, which it does not take."""
        videos = make_batched_videos(videos)
        metadata: list[VideoMetadata] = make_batched_metadata(videos, video_metadata)
        if len(lengths := {len(video) for video in videos}) > 1:
            raise ValueError(f"videos of {' and '.join(map(str, sorted(lengths)))} frames; show them with as many each")
        frames = [[np.asarray(frame) for frame in video] for video in videos]
        made = [self._images(one, crop_to_patches=False)["pixel_values"] for one in frames]
        pixels = torch.from_numpy(np.asarray(made, np.float32))
        return BatchFeature({"pixel_values_videos": pixels, "video_metadata": metadata})
