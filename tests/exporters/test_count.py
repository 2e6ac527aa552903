"""Counts of tokens, against what Hugging Face's processors make of pictures and videos of those sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.errors import UserError
from contract.vision import Pictures, Tower
from exporters import count, processor
from exporters import spec as specs
from exporters.vision import Size, VisionSpec
from tests import torchvision_processor, vision_models

FREE = {"qwen2_vl": 14, "qwen2_5_vl": 14, "qwen3_vl": 16, "glm4v": 14}
PLACEHOLDERS = {"glm4v": "<|image|>"}
OF_VIDEOS = {"qwen3_vl": 4096, "glm4v": 12544}  # their limits, of which this is the least, are for all frames
LARGEST = (672, 896)
SWEEP = 200


def spec(name: str) -> VisionSpec:
    return VisionSpec(1, 1, 1, 1, 1, FREE[name], 0, 1, frames=2, merge=2)


def sizes(most: int) -> list[Size]:
    """Of any shape, small ones as often as large ones."""
    generator = np.random.default_rng(0)
    found = np.exp(generator.uniform(np.log(8), np.log(most), (SWEEP, 2))).astype(int)
    return [(int(high), int(wide)) for high, wide in found]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in FREE}
    for name, folder in made.items():
        vision_models.write_processor(name, folder)
    return made


@pytest.fixture(params=FREE)
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> tuple[str, Path]:
    return request.param, checkpoints[request.param]


@pytest.mark.slow
def test_pictures_have_the_tokens_that_hugging_face_makes_of_them(checkpoint: tuple[str, Path]) -> None:
    name, folder = checkpoint
    counters = [count.counter(spec(name), name, source, LARGEST) for source in (folder, None)]
    loaded = processor.load(folder, LARGEST[0] * LARGEST[1])
    seen = set()
    for height, width in sizes(1500):
        shown = {"type": "image", "image": Image.new("RGB", (width, height))}
        placeholder = vision_models.IDS[PLACEHOLDERS.get(name, "<|image_pad|>")]
        made = loaded.prompt([{"role": "user", "content": [shown]}]).ids.count(placeholder)
        assert [counter.image(height, width).tokens for counter in counters] == [made] * 2, (height, width)
        seen.add(made)
    assert len(seen) > SWEEP / 4


def films(name: str) -> list[tuple[int, int, int, dict[str, int]]]:
    """Frames, height, width, and limits as Hugging Face is told them."""
    most, low = LARGEST[0] * LARGEST[1] // 4, OF_VIDEOS.get(name, 3136)
    return [
        (frames, *size, {"shortest_edge": low, "longest_edge": most * frames if name in OF_VIDEOS else most})
        for frames, size in zip([2, 3, 8, 21] * (SWEEP // 4), sizes(1500), strict=True)
    ]


@pytest.mark.slow
def test_videos_have_the_patches_that_hugging_face_makes_of_them(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    asking = [(folder, "patches", {"rows": films(name)}) for name, folder in checkpoints.items()]
    for (name, folder), theirs in zip(checkpoints.items(), torchvision_processor.ask(asking, tmp_path), strict=True):
        for source in (folder, None):
            counter = count.counter(spec(name), name, source, LARGEST)
            ours = [counter.video(frames, 1.0, size).tokens * 4 for frames, *size, _ in films(name)]
            assert ours == theirs


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [
        ("qwen2_5_vl", (672, 896), 768),
        ("qwen2_vl", (28, 28), 4),
        ("qwen3_vl", (100, 100), 64),
        ("glm4v", (700, 900), 744),
    ],
)
def test_the_arithmetic_is_shown(name: str, size: Size, tokens: int) -> None:
    made = count.counter(spec(name), name, None, LARGEST).image(*size)
    assert made.tokens == tokens
    shown = str(made)
    assert shown.endswith(f" = {tokens}")
    grid = shown[shown.index("pixels, ") + len("pixels, ") : shown.index(" patches")].split(" x ")
    assert np.prod([int(side) for side in grid]) == 4 * tokens


@pytest.mark.parametrize("name", ["internvl", "gemma3_image", "llava", "janus"])
def test_pictures_of_one_size_have_the_tokens_that_hugging_face_makes_of_them(name: str, tmp_path: Path) -> None:
    checkpoint = vision_models.make(name, tmp_path)
    read = specs.read(checkpoint)
    assert read.vision
    counter, loaded = count.counter(read.vision, read.model_type, checkpoint), processor.load(checkpoint)
    for height, width in sizes(400)[:40]:
        shown = {"type": "image", "image": Image.new("RGB", (width, height))}
        made = loaded.prompt([{"role": "user", "content": [shown]}])
        assert made.pictures is not None
        assert counter.image(height, width).tokens == made.ids.count(read.vision.image_token)
        assert counter.image(height, width).tokens == len(made.pictures.pixels) * read.vision.rows


@pytest.mark.parametrize(
    ("name", "rows", "size", "told"),
    [
        ("gemma3:gemma3_text", 256, (500, 700), "image 500x700: 1 picture x 256 = 256"),
        ("llava:llama", 576, (500, 700), "image 500x700: 1 picture x 576 = 576"),
        ("internvl:qwen2", 256, (448, 448), "image 448x448: 1 picture x 256 = 256"),
        ("internvl:qwen2", 256, (896, 1344), "image 896x1344: 6 tiles and a thumbnail, 7 x 256 = 1792"),
    ],
)
def test_published_models_of_one_size(name: str, rows: int, size: Size, told: str) -> None:
    one_size = VisionSpec(1, 1, 1, 1, 1, 14, 0, 1, picture=448, rows=rows, size=(448, 448))
    counter = count.counter(one_size, name, None)
    assert str(counter.image(*size)) == told
    if name.startswith("internvl"):
        assert str(counter.video(20, 1.0)) == f"video of 20 s: 20 frames x {rows} = {20 * rows}"
    else:
        with pytest.raises(UserError, match="this model takes no videos"):
            counter.video(20, 1.0)


def test_a_video_is_a_quarter_as_large_as_a_picture() -> None:
    made = count.counter(spec("qwen2_5_vl"), "qwen2_5_vl", None, LARGEST).video(20, 1.0)
    assert str(made) == "video of 20 s: 20 frames of 336x448 pixels, 10 x 24 x 32 patches / 4 = 1920"


def test_what_cannot_be_shown_is_refused() -> None:
    counter = count.counter(spec("qwen2_vl"), "qwen2_vl", None, LARGEST)
    with pytest.raises(UserError, match="image 1x500: the model takes no such shape"):
        counter.image(1, 500)
    with pytest.raises(UserError, match=r"no frames at 0\.01 a second"):
        counter.video(20, 0.01)
    with pytest.raises(UserError, match="nothing is known of how new_vl prepares pictures"):
        count.counter(spec("qwen2_vl"), "new_vl", None)


def test_a_prompt_is_explained_by_its_parts() -> None:
    grids = Pictures(np.zeros((0, 1), np.float32), ((1, 48, 64), (10, 24, 32)), (False, True), (0.0, 2.0))
    told = "pictures 48 x 64 patches / 4 + 10 x 24 x 32 patches / 4 = 2688, text 12"
    assert count.explain(grids, Tower(3072, 2, 768, 0), 2700) == told
    tiles = Pictures(np.zeros((3, 3, 8, 8), np.float32))
    assert count.explain(tiles, Tower(0, 1, 256, 0), 800) == "pictures 3 x 256 = 768, text 32"
