"""Opens pictures and videos from files, as transformers opens them; a file that cannot be shown is a UserError."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

_OTHER_PICTURE = "give a picture that Pillow can open, such as a JPEG or PNG"
_OTHER_VIDEO = "give a video that FFmpeg can decode, or a folder of its frames"
# (frames there are, how many of them a second, how many a second are wanted) to the numbers of those to take
Sample = Callable[[int, float, float], NDArray[np.int64]]


@dataclass(frozen=True)
class Video:
    """`frames`: [n, height, width, 3] uint8, those taken. `total`, `fps`: frames of the whole, and how many of those
    a second has. `numbers`: of those taken."""

    frames: NDArray[np.uint8]
    total: int
    fps: float
    numbers: Sequence[int]


def image(path: Path) -> Image:
    """The picture in RGB, upright, by transformers' `load_image`: CMYK and palettes are converted, EXIF rotation is
    applied, an animation shows its first frame. UserError for what Pillow cannot read, or takes for a bomb."""
    from PIL import UnidentifiedImageError
    from PIL.Image import DecompressionBombError
    from transformers.image_utils import load_image

    if not path.is_file():
        raise UserError("no such picture", str(path), "name a file")
    try:
        picture: Image = load_image(str(path))
        return picture
    except UnidentifiedImageError as error:
        raise UserError("not a picture", str(path), _OTHER_PICTURE) from error
    except DecompressionBombError as error:
        what = re.sub(r", could be.*", "", str(error))
        raise UserError(f"too large ({what})", str(path), "give a smaller picture") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise UserError(f"damaged picture ({error})", str(path), _OTHER_PICTURE) from error


def video(path: Path, fps: float, sample: Sample) -> Video:
    """A video at `fps` frames a second: of a folder all pictures in the order of their names, which are taken to be
    at that pace already; of a file those that `sample` chooses. UserError for what cannot be read, or without PyAV."""
    return _folder(path, fps) if path.is_dir() else _file(path, fps, sample)


def _folder(path: Path, fps: float) -> Video:
    files = sorted((f for f in path.iterdir() if f.is_file() and f.name[0] != "."), key=lambda f: _natural(f.name))
    if not files:
        raise UserError("no frames in here", str(path), "name a folder of pictures, or a video")
    frames = [np.asarray(image(file)) for file in files]
    for file, frame in zip(files, frames, strict=True):
        if frame.shape != frames[0].shape:
            sizes = [f"{shape[0]}x{shape[1]}" for shape in (frame.shape, frames[0].shape)]
            what = f"this frame is {sizes[0]}, the first one {sizes[1]}"
            raise UserError(what, str(file), "give frames of one size")
    return Video(np.stack(frames), len(frames), fps, range(len(frames)))


def _natural(name: str) -> list[Any]:
    """frame2 before frame10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _file(path: Path, fps: float, sample: Sample) -> Video:
    from transformers.utils.import_utils import is_av_available
    from transformers.video_utils import load_video

    if not path.is_file():
        raise UserError("no such video", str(path), "name a file, or a folder of frames")
    if not is_av_available():
        raise UserError("decoding a video needs PyAV", str(path), "pip install av, or name a folder of its frames")
    try:
        place: Any = str(path)  # transformers' hints leave out what it takes first
        frames, found = load_video(
            place,
            backend="pyav",
            sample_indices_fn=lambda metadata, **_: sample(metadata.total_num_frames, metadata.fps, fps),
        )
    except (OSError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"not a video that can be read ({reason})", str(path), _OTHER_VIDEO) from error
    return Video(frames, found.total_num_frames, found.fps, [int(number) for number in found.frames_indices])
