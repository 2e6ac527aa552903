"""Prompts with pictures and videos, against what Hugging Face's own processors make of them beside torchvision."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.errors import UserError
from contract.vision import Prompt
from exporters import processor
from exporters.pictures import Video
from tests import torchvision_processor, vision_models

FREE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")
ONE_SIZE = ("internvl", "gemma3_image", "llava", "janus")
SAMPLES = list(itertools.product((4, 7, 50, 301), (8.0, 23.976, 30.0), (0.5, 1, 2)))
# Those of which InternVL takes a frame, and none twice: Hugging Face fails at others.
ENOUGH = [(total, fps, wanted) for total, fps, wanted in SAMPLES if 1 <= int(total / fps * wanted) <= total]
# Two of 255 levels, after normalisation: torchvision rounds otherwise than Pillow in each of two passes of resizing.
ROUNDED = {**dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "glm4v"), 2.01 / 255 / 0.261), "qwen3_vl": 2.01 / 255 / 0.5}
# Image processors that take their limits for all frames of a patch; video processors that take them for all of a video.
OF_FRAMES, OF_VIDEOS = ("glm4v",), {"qwen3_vl": 4096, "glm4v": 12544}
SMALLEST = {"qwen3_vl": 65536, "glm4v": 12544}
PLACEHOLDERS = {"glm4v": "<|image|>"}


def noise(*shape: int) -> np.ndarray:
    """Smooth colours with some noise, as a photograph has them."""
    generator = np.random.default_rng(sum(shape))
    height, width = shape[-2:]
    plane = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 100, width))
    return (plane[..., None] + generator.integers(0, 30, (*shape, 3))).astype(np.uint8)


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(noise(height, width))


def film(count: int, height: int, width: int, fps: float = 1.0) -> Video:
    return Video(noise(count, height, width), count, fps, range(count))


@dataclass
class Case:
    """`parts` of a user's message; `max_pixels`; `sizes` that tell Hugging Face the same, of pictures and videos."""

    parts: list[dict[str, Any]]
    max_pixels: int | None = None
    sizes: tuple[dict[str, int] | None, dict[str, int] | None] = (None, None)
    tolerance: float = 1e-5

    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": self.parts}]


def image_part(*size: int) -> dict[str, Any]:
    return {"type": "image", "image": picture(*size)}


def video_part(*shape: int, fps: float = 1.0) -> dict[str, Any]:
    return {"type": "video", "video": film(*shape, fps=fps)}


TEXT = {"type": "text", "text": "Describe this."}


def cases(name: str) -> dict[str, Case]:
    unit, rounded = 32 if name == "qwen3_vl" else 28, ROUNDED[name]
    small = {"shortest_edge": 56 * 56, "longest_edge": 8 * unit * 8 * unit}
    of_frames = {"shortest_edge": 56 * 56, "longest_edge": small["longest_edge"] // 4}
    return {
        "text": Case([TEXT]),
        "picture": Case([image_part(200, 300), TEXT]),
        "pictures": Case([image_part(100, 400), TEXT, image_part(500, 90), image_part(20, 30)]),
        "limited": Case([image_part(600, 900), TEXT], small["longest_edge"], (small, None)),
        "video": Case([video_part(6, 12 * unit, 10 * unit), TEXT]),
        "video, odd and at another pace": Case([video_part(5, 8 * unit, 12 * unit, fps=3.0), TEXT]),
        "video, resized": Case([video_part(4, 333, 444), TEXT], tolerance=rounded),
        "video, limited": Case(
            [video_part(4, 333, 444), TEXT], small["longest_edge"], (None, of_frames), tolerance=rounded
        ),
        "both": Case([image_part(90, 120), video_part(4, 12 * unit, 10 * unit), TEXT, image_part(60, 60)]),
    }


OF_ONE_SIZE = {
    "one": Case([image_part(90, 190), TEXT]),
    "two": Case([image_part(60, 60), TEXT, image_part(300, 80)]),
}
SIDE = vision_models.SIDE
FRAMES = {  # of models to which a frame is a picture
    "video": Case([video_part(5, SIDE, SIDE), TEXT]),
    "video, resized": Case([video_part(4, 333, 444, fps=2.0), TEXT], tolerance=2.01 / 255 / 0.224),
    "videos": Case([video_part(3, SIDE, SIDE), TEXT, video_part(3, SIDE, SIDE, fps=3.0)]),
    "both": Case([image_part(SIDE, SIDE), video_part(2, SIDE, SIDE), TEXT, image_part(SIDE, SIDE)]),
}


def asked(name: str, case: Case, folder: Path) -> torchvision_processor.Question:
    images = [part["image"] for part in case.parts if part["type"] == "image"]
    videos = [part["video"] for part in case.parts if part["type"] == "video"]
    bare = [part if part["type"] == "text" else {"type": part["type"]} for part in case.parts]
    images_size, videos_size = case.sizes
    if images_size and name in SMALLEST:
        most = images_size["longest_edge"] * (2 if name in OF_FRAMES else 1)
        images_size = {"shortest_edge": min(SMALLEST[name], most), "longest_edge": most}
    if videos_size and name in OF_VIDEOS:
        most = videos_size["longest_edge"] * len(videos[0].frames)
        videos_size = {"shortest_edge": OF_VIDEOS[name], "longest_edge": most}
    question = {
        "messages": [{"role": "user", "content": bare}],
        "images": images,
        "videos": [video.frames for video in videos],
        "metadata": [
            {"total_num_frames": video.total, "fps": video.fps, "frames_indices": list(video.numbers)}
            for video in videos
        ],
        "images_size": images_size,
        "videos_size": videos_size,
    }
    return folder, "prompt", question


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in (*FREE, *ONE_SIZE)}
    for name, folder in made.items():
        vision_models.write_processor(name, folder)
    return made


@pytest.fixture(scope="module")
def theirs(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """What Hugging Face's processors give, by model and case."""
    asking = {(name, label): asked(name, case, folders[name]) for name in FREE for label, case in cases(name).items()}
    asking |= {
        (name, label): asked(name, case, folders[name]) for name in ONE_SIZE for label, case in OF_ONE_SIZE.items()
    }
    asking |= {("internvl", label): asked("internvl", case, folders["internvl"]) for label, case in FRAMES.items()}
    asking |= {(name, "samples"): (folders[name], "samples", {"rows": SAMPLES}) for name in FREE}
    asking["internvl", "samples"] = folders["internvl"], "samples", {"rows": ENOUGH}
    answers = torchvision_processor.ask(list(asking.values()), tmp_path_factory.mktemp("asked"))
    return dict(zip(asking, answers, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", FREE)
def test_prompts_are_hugging_faces(name: str, folders: dict[str, Path], theirs: dict[tuple[str, str], Any]) -> None:
    for label, case in cases(name).items():
        ours = processor.load(folders[name], case.max_pixels).prompt(case.messages())
        assert ours.ids == list(theirs[name, label]["input_ids"][0]), label
        check_pictures(label, case, ours, theirs[name, label])


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_SIZE)
def test_prompts_for_towers_of_one_size_are_hugging_faces(
    name: str, folders: dict[str, Path], theirs: dict[tuple[str, str], Any]
) -> None:
    for label, case in OF_ONE_SIZE.items():
        ours = processor.load(folders[name]).prompt(case.messages())
        assert ours.ids == list(theirs[name, label]["input_ids"][0])
        assert ours.pictures is not None
        assert ours.pictures.grids == ()
        np.testing.assert_array_equal(ours.pictures.pixels, np.asarray(theirs[name, label]["pixel_values"], np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("name", FREE)
def test_frames_are_sampled_as_by_hugging_face(
    name: str, folders: dict[str, Path], theirs: dict[tuple[str, str], Any]
) -> None:
    frames = processor.load(folders[name]).processor.video_processor
    assert [frames.sample(*row).tolist() for row in SAMPLES] == theirs[name, "samples"]


@pytest.mark.slow
@pytest.mark.parametrize("label", FRAMES)
def test_videos_whose_frames_are_pictures_are_hugging_faces(
    label: str, folders: dict[str, Path], theirs: dict[tuple[str, str], Any]
) -> None:
    case, expected = FRAMES[label], theirs["internvl", label]
    ours = processor.load(folders["internvl"]).prompt(case.messages())
    assert ours.ids == list(expected["input_ids"][0])
    assert ours.pictures is not None
    assert ours.pictures.grids == ()
    wanted = np.asarray(expected["pixel_values"], np.float32)
    np.testing.assert_allclose(ours.pictures.pixels, wanted, atol=case.tolerance, rtol=0)


@pytest.mark.slow
def test_frames_that_are_pictures_are_sampled_as_by_hugging_face(
    folders: dict[str, Path], theirs: dict[tuple[str, str], Any]
) -> None:
    frames = processor.load(folders["internvl"]).processor.video_processor
    assert [frames.sample(*row).tolist() for row in ENOUGH] == theirs["internvl", "samples"]
    assert frames.sample(4, 30.0, 0.1).tolist() == [2], "where it would take none"
    assert frames.sample(3, 1.0, 9.0).tolist() == [0, 1, 2], "where it would take some twice"


def test_videos_of_different_lengths_are_the_users_mistake(folders: dict[str, Path]) -> None:
    parts = [video_part(2, SIDE, SIDE), video_part(3, SIDE, SIDE)]
    with pytest.raises(UserError, match="videos of 2 and 3 frames; show them with as many each"):
        processor.load(folders["internvl"]).prompt(Case(parts).messages())


def check_pictures(label: str, case: Case, ours: Prompt, theirs: dict[str, Any]) -> None:
    if case.parts == [TEXT]:
        assert ours.pictures is None
        return
    assert ours.pictures is not None
    left = {"image": theirs.get("pixel_values"), "video": theirs.get("pixel_values_videos")}
    grids = {kind: iter(theirs.get(f"{kind}_grid_thw", ())) for kind in left}
    seconds = iter(theirs.get("second_per_grid_ts", ()))
    shown = [part["type"] for part in case.parts if part["type"] != "text"]
    for index, (kind, part) in enumerate(zip(shown, ours.pictures.parts(), strict=True)):
        assert ours.pictures.grids[index] == tuple(next(grids[kind])), label
        assert ours.pictures.videos[index] == (kind == "video")
        assert ours.pictures.seconds[index] == (next(seconds, 0.0) if kind == "video" else 0.0)
        expected, left[kind] = left[kind][: len(part)], left[kind][len(part) :]
        assert part.dtype == np.float32
        np.testing.assert_allclose(part, expected, atol=case.tolerance, rtol=0, err_msg=label)
    assert all(rest is None or len(rest) == 0 for rest in left.values()), label


def test_the_rows_of_a_picture_are_its_placeholders(folders: dict[str, Path]) -> None:
    for name in FREE:
        made = processor.load(folders[name]).prompt(Case([image_part(300, 200), TEXT]).messages())
        assert made.pictures is not None
        placeholder = vision_models.IDS[PLACEHOLDERS.get(name, "<|image_pad|>")]
        assert made.ids.count(placeholder) == len(made.pictures.pixels) // 4


def test_without_a_template_the_placeholders_stand_where_the_pictures_do(folders: dict[str, Path]) -> None:
    made = processor.load(folders["qwen2_5_vl"]).prompt(Case([TEXT, image_part(56, 56)]).messages(), template=False)
    loaded = processor.load(folders["qwen2_5_vl"])
    assert made.ids == [*loaded.tokenizer(TEXT["text"])["input_ids"], *[vision_models.IDS["<|image_pad|>"]] * 4]


def test_a_shape_that_hugging_face_refuses_is_the_users_mistake(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="aspect ratio"):
        processor.load(folders["qwen2_vl"]).prompt(Case([image_part(2, 900)]).messages())


def test_a_text_model_has_no_processor(tmp_path: Path) -> None:
    assert not processor.shows_pictures(tmp_path)
    with pytest.raises(UserError, match="no processor for pictures"):
        processor.load(tmp_path)


def test_a_processor_of_the_checkpoints_own_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"processor_class": "MiniCPMVProcessor"}')
    with pytest.raises(UserError, match="MiniCPMVProcessor is not one of transformers'"):
        processor.load(tmp_path)
