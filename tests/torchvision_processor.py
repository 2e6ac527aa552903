"""What Hugging Face's own processors make of pictures and videos beside torchvision: asked in a child process.

torchvision's wheel is built for CUDA, and its compiled half cannot load beside a CPU build of torch. What is asked for
here needs its transforms only, which load once two of its operators are known by name.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
# A checkpoint, a function below, and what it takes beside the checkpoint's processor.
Question = tuple[Path, str, dict[str, Any]]


def ask(questions: list[Question], scratch: Path) -> list[Any]:
    """The answers, all by one child, which takes seconds to start."""
    from tests import real_code

    given, answers = scratch / "questions", scratch / "answers"
    given.write_bytes(pickle.dumps(questions))
    path = os.pathsep.join([str(real_code.folder("torchvision")), str(HERE.parents[1])])
    command = [sys.executable, str(HERE), str(given), str(answers)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return pickle.loads(answers.read_bytes())


def prompt(
    processor: Any, messages: Any, images: Any, videos: Any, metadata: Any, images_size: Any, videos_size: Any
) -> dict[str, Any]:
    """Token ids, patches and grids."""
    made = processor(
        text=[processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)],
        images=images or None,
        videos=videos or None,
        images_kwargs={"size": images_size} if images_size else {},
        videos_kwargs={"video_metadata": metadata, "do_sample_frames": False}
        | ({"size": videos_size} if videos_size else {}),
    )
    return {key: value.numpy() if hasattr(value, "numpy") else value for key, value in made.items()}


def samples(processor: Any, rows: list[tuple[int, float, float]]) -> list[list[int]]:
    """For each (frames, frames a second, frames a second wanted) the frames that are taken."""
    from transformers.video_utils import VideoMetadata

    frames = processor.video_processor
    videos = [(VideoMetadata(total, fps, duration=total / fps), wanted) for total, fps, wanted in rows]
    return [frames.sample_frames(video, fps=wanted).tolist() for video, wanted in videos]


def patches(processor: Any, rows: list[tuple[int, int, int, dict[str, int]]]) -> list[int]:
    """For each (frames, height, width, limits) of a video the number of its patches."""
    frames = processor.video_processor
    return [int(frames.get_num_of_video_patches(*row, {"size": size})) for *row, size in rows]


def _answer(given: str, answers: str) -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    questions: list[Question] = pickle.loads(Path(given).read_bytes())
    found = [globals()[name](_processor(folder), **what) for folder, name, what in questions]
    Path(answers).write_bytes(pickle.dumps(found))


@cache
def _processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor


if __name__ == "__main__":
    _answer(*sys.argv[1:])
