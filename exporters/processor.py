"""The processor of a vision-language checkpoint, or of a build folder's config: messages in, a Prompt out.

Hugging Face's own code resizes, normalises, cuts into patches and counts placeholders, on Pillow; its video processors
need torchvision, and exporters.frames stands in for them. No code of the folder is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import UserError
from contract.vision import Pictures, Prompt
from exporters import own_processors
from exporters import tokenizer as tokenizers
from exporters.own_processors import Own, read
from exporters.pictures import Video

if TYPE_CHECKING:
    from exporters.frame_pictures import FramePictures
    from exporters.frames import Frames

VIDEO_SHARE = 4  # a frame of a video takes at most this part of a picture's pixels
_NAMED_IN = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
# Image processors whose limits are for all frames of a patch together, which a picture fills.
_OF_FRAMES = ("Glm4vImageProcessorPil",)

Message = dict[str, Any]


def shows_pictures(folder: Path) -> bool:
    """Whether the checkpoint or config in `folder` prepares pictures."""
    return (folder / "preprocessor_config.json").is_file() or "image_processor" in read(folder / _NAMED_IN[0])


def load(folder: Path, max_pixels: int | None = None) -> Processor:
    """The processor of `folder`. `max_pixels`: of a picture; a larger one is made smaller; None leaves it to the
    checkpoint. UserError where there is none, or where it is code of the checkpoint's own."""
    own = own_processors.find(folder, max_pixels)
    kind, images, frames = parts(folder, max_pixels, own)
    with _blaming(folder):
        tokenizer = tokenizers.load(folder)
        tokenizer = own.name(tokenizer) if own else tokenizer
        held = {"image_processor": images, "tokenizer": tokenizer, "video_processor": frames}
        settings = own.settings if own else kind.get_processor_dict(folder, local_files_only=True)[0]
        made = _taking(type(frames), kind).from_args_and_dict([held[name] for name in kind.get_attributes()], settings)
    return Processor(made, max_pixels, own)


def parts(folder: Path, max_pixels: int | None, own: Own | None) -> tuple[Any, Any, Frames | FramePictures | None]:
    """The processor's class; its image processor, on Pillow; and what prepares videos, None for a model that takes
    none. `own`: what exporters.own_processors finds in `folder`. UserError as in `load`."""
    from transformers import AutoImageProcessor
    from transformers.models.auto.processing_auto import processor_class_from_name

    from exporters.frame_pictures import FramePictures
    from exporters.frames import Frames

    if own:
        return own.processor, own.images, FramePictures(own.images) if own.video else None
    name = next((found for file in _NAMED_IN if (found := read(folder / file).get("processor_class"))), None)
    kind = processor_class_from_name(name or _usual(folder) or "")
    if not shows_pictures(folder) or kind is None:
        what = f"the processor {name} is not one of transformers'" if name else "no processor for pictures in here"
        raise UserError(what, str(folder), "name a checkpoint of a vision-language model that transformers knows")
    with _blaming(folder):
        images = AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
        pictures = FramePictures.of(folder, kind.__name__, images)
        return kind, images, pictures or Frames.of(folder, kind.__name__, images, share(max_pixels))


def share(max_pixels: int | None) -> int | None:
    """Pixels of the largest frame of a video, where those of the largest picture are `max_pixels`."""
    return None if max_pixels is None else max_pixels // VIDEO_SHARE


@contextmanager
def _blaming(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"no usable processor ({reason})", str(folder), "fetch the checkpoint's files again") from error


class Processor:
    """`processor`: Hugging Face's. `tokenizer`: the one inside it. `own`: of a checkpoint that brings its own code."""

    def __init__(self, processor: Any, max_pixels: int | None = None, own: Own | None = None) -> None:
        self.processor, self._own = processor, own
        self.tokenizer = processor.tokenizer
        self._size = limits(processor.image_processor, max_pixels)

    @property
    def chat_template(self) -> str | None:
        found: str | None = self.processor.chat_template or self.tokenizer.chat_template
        return found

    def sample(self, total: int, fps: float, wanted: float) -> NDArray[np.int64]:
        """See exporters.pictures.Sample. UserError for a model that takes no videos."""
        return self._frames().sample(total, fps, wanted)

    def prompt(self, messages: Sequence[Message], template: bool = True) -> Prompt:
        """The conversation, waiting for its answer. A message's content is a text, or a list of parts, as in
        {"type": "text", "text": …}, {"type": "image", "image": a Pillow image}, {"type": "video", "video": a Video}.
        Without `template` it is the texts alone, with the placeholders between them. UserError for what this
        processor refuses."""
        shown = list(_shown(messages))
        images = [part["image"] for part in shown if part["type"] == "image"]
        videos: list[Video] = [part["video"] for part in shown if part["type"] == "video"]
        if videos:
            self._frames()
        given: dict[str, Any] = {"images": images or None}
        if videos:
            given |= {"videos": [v.frames for v in videos], "video_metadata": [_metadata(v) for v in videos]}
        if self._size and images:
            given["images_kwargs"] = {"size": self._size}
        text = self._text(messages, template)
        try:
            made = self.processor(text=[text], text_kwargs={"add_special_tokens": not template}, **given)
        except ValueError as error:
            raise UserError(f"the model's processor refuses this prompt ({error})") from error
        return Prompt([int(i) for i in made["input_ids"][0]], _pictures(made, shown, videos))

    def _frames(self) -> Frames | FramePictures:
        found: Frames | FramePictures | None = getattr(self.processor, "video_processor", None)
        if found is None:
            raise UserError("this model takes no videos", remedy="give pictures in place of them")
        return found

    def _text(self, messages: Sequence[Message], template: bool) -> str:
        if template:
            bare_content = self._own.text if self._own else _bare
            bare = [{**message, "content": bare_content(message["content"])} for message in messages]
            owner = self.processor if self.processor.chat_template else self.tokenizer
            return str(owner.apply_chat_template(bare, tokenize=False, add_generation_prompt=True))
        return "\n".join(self._plain(message["content"]) for message in messages)

    def _plain(self, content: str | list[Message]) -> str:
        if self._own:
            return self._own.text(content)
        if isinstance(content, str):
            return content
        tokens = {kind: getattr(self.processor, f"{kind}_token", "") for kind in ("image", "video")}
        return "".join(part.get("text") or tokens[part["type"]] for part in content)


def _taking(frames: type, kind: Any) -> Any:
    """The processor class `kind`, which takes `frames` as its video processor: it would compare it with a class that
    transformers exports beside torchvision only."""

    class Taking(kind):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if isinstance(argument, frames):
                return frames
            return super().check_argument_for_proper_class(argument_name, argument)

    return Taking


def _usual(folder: Path) -> str | None:
    """The processor class that transformers pairs with the model type, where no file names one."""
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        kind: Any = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(folder, local_files_only=True)), None)
    except (OSError, ValueError):
        return None
    return None if kind is None else str(kind.__name__)


def limits(image_processor: Any, max_pixels: int | None) -> dict[str, int] | None:
    """What an image processor of free grids is told, so that no picture has more than `max_pixels`."""
    if max_pixels is None or not hasattr(image_processor, "merge_size"):
        return None
    size = image_processor.size
    counted = image_processor.temporal_patch_size if type(image_processor).__name__ in _OF_FRAMES else 1
    high = min(max_pixels * counted, size["longest_edge"])
    return {"shortest_edge": min(size["shortest_edge"], high), "longest_edge": high}


def _shown(messages: Iterable[Message]) -> Iterable[Message]:
    for message in messages:
        if not isinstance(message["content"], str):
            yield from (part for part in message["content"] if part["type"] != "text")


def _bare(content: str | list[Message]) -> list[Message]:
    """As any template reads it, and without the pictures themselves; LLaVA's takes no plain text."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [part if part["type"] == "text" else {"type": part["type"]} for part in content]


def _metadata(video: Video) -> dict[str, Any]:
    return {"total_num_frames": video.total, "fps": video.fps, "frames_indices": list(video.numbers)}


def _pictures(made: Any, shown: Sequence[Message], videos: Sequence[Video]) -> Pictures | None:
    """What the processor prepared, in the order in which the prompt shows it."""
    if not shown:
        return None
    if "image_grid_thw" not in made and "video_grid_thw" not in made:
        return Pictures(np.asarray(made["pixel_values"], np.float32))
    if not videos:  # one picture may be several to the tower
        grids = tuple((int(t), int(h), int(w)) for t, h, w in made["image_grid_thw"])
        each = (False,) * len(grids), (0.0,) * len(grids)
        return Pictures(np.asarray(made["pixel_values"], np.float32), grids, *each)
    image_parts = iter(_split(made.get("pixel_values"), made.get("image_grid_thw")))
    video_parts = iter(_split(made.get("pixel_values_videos"), made.get("video_grid_thw")))
    steps = iter(made.get("second_per_grid_ts", ()))
    pixels, found, seconds = [], [], []
    for part in shown:
        is_video = part["type"] == "video"
        values, grid = next(video_parts if is_video else image_parts)
        pixels.append(values)
        found.append(grid)
        seconds.append(float(next(steps, 0.0)) if is_video else 0.0)
    flags = tuple(part["type"] == "video" for part in shown)
    return Pictures(np.concatenate(pixels).astype(np.float32, copy=False), tuple(found), flags, tuple(seconds))


def _split(pixels: Any, grids: Any) -> Iterable[tuple[Any, tuple[int, int, int]]]:
    start = 0
    for grid in () if grids is None else grids:
        t, h, w = (int(n) for n in grid)
        yield np.asarray(pixels)[start : start + t * h * w], (t, h, w)
        start += t * h * w
