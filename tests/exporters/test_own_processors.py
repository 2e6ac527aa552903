"""Prompts of checkpoints whose own code prepares pictures, against that code."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contract import vision
from contract.errors import UserError
from exporters import count, processor, remote, spec
from tests import real_code, remote_vision, vision_models
from tests.exporters.test_processor import TEXT, Case, image_part, picture, video_part

IDS = vision_models.IDS
# <IMG_CONTEXT> is the seventh from the end.
INTERN = {"llm_config": remote_vision.QWEN2 | {"vocab_size": IDS["<IMG_CONTEXT>"] + 7}}
SIDE = remote_vision.SIDE
SIZES = [(56, 56), (90, 190), (300, 80), (1000, 400), (500, 505), (30, 20), (333, 777)]


@pytest.fixture(scope="module")
def intern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return remote_vision.write_processor("internvl_chat-qwen2", tmp_path_factory.mktemp("intern"), **INTERN)


@pytest.fixture(scope="module")
def tiles() -> Any:
    """The model card's own function."""
    source = (real_code.folder("internvl_card") / "lmms_eval/models/simple/internvl2.py").read_text(encoding="utf-8")
    wanted = ("find_closest_aspect_ratio", "dynamic_preprocess")
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    found: dict[str, Any] = {}
    exec(compile(tree, "internvl2.py", "exec"), found)  # the file as a whole wants packages for its benchmarks
    return found["dynamic_preprocess"]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_the_model_cards(size: tuple[int, int], intern: Path, tiles: Any) -> None:
    made = processor.load(intern).prompt(Case([image_part(*size), TEXT]).messages())
    wanted = tiles(picture(*size), image_size=SIDE, use_thumbnail=True, max_num=12)
    look = remote_vision.INTERNVL_PICTURES
    scaled = [(np.asarray(tile, np.float32) / 255 - look["image_mean"]) / look["image_std"] for tile in wanted]
    assert made.pictures is not None
    np.testing.assert_allclose(made.pictures.pixels, np.stack(scaled).transpose(0, 3, 1, 2), atol=1e-5)
    tower = spec.read(intern).vision
    assert tower is not None
    assert made.ids.count(tower.image_token) == len(wanted) * tower.rows
    assert count.counter(tower, "internvl_chat", intern).image(*size).tokens == len(wanted) * tower.rows


def test_the_words_around_tiles_are_the_model_cards(intern: Path) -> None:
    parts = [image_part(SIDE, SIDE), image_part(SIDE, 2 * SIDE), TEXT]
    loaded = processor.load(intern)
    shown = ["<img>" + "<IMG_CONTEXT>" * 4 * n + "</img>\n" for n in (1, 3)]
    head = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    text = f"{head}{''.join(shown)}{TEXT['text']}<|im_end|>\n<|im_start|>assistant\n"
    assert loaded.prompt(Case(parts).messages()).ids == list(loaded.tokenizer(text)["input_ids"])
    bare = loaded.prompt(Case(parts).messages(), template=False).ids
    assert bare == list(loaded.tokenizer("".join(shown) + TEXT["text"])["input_ids"])


def test_a_checkpoint_that_does_not_cut_tiles(tmp_path: Path) -> None:
    folder = remote_vision.write_processor("internvl_chat-qwen2", tmp_path, **INTERN, dynamic_image_size=False)
    made = processor.load(folder).prompt(Case([image_part(300, 80), TEXT]).messages())
    assert made.pictures is not None
    assert made.pictures.pixels.shape == (1, 3, SIDE, SIDE)


def test_a_video_stands_as_the_model_card_has_it(intern: Path) -> None:
    """Each frame in one tile, with its number before it."""
    loaded = processor.load(intern)
    made = loaded.prompt(Case([video_part(3, SIDE, SIDE), TEXT]).messages(), template=False)
    text = "".join(f"Frame{i}: <img>{'<IMG_CONTEXT>' * 4}</img>\n" for i in (1, 2, 3)) + TEXT["text"]
    assert made.ids == list(loaded.tokenizer(text)["input_ids"])
    assert made.pictures is not None
    assert made.pictures.pixels.shape == (3, 3, SIDE, SIDE)


def test_videos_and_unknown_settings_are_refused(minicpm: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes no videos"):
        processor.load(minicpm).prompt(
            [{"role": "user", "content": [{"type": "video", "video": Image.new("RGB", (9, 9))}]}]
        )
    folder = remote_vision.write_processor("internvl_chat", tmp_path, use_thumbnail=False)
    with pytest.raises(UserError, match="tiles without a thumbnail"):
        processor.load(folder)


@pytest.fixture(scope="module")
def minicpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return remote_vision.write_processor("minicpmv", tmp_path_factory.mktemp("minicpm"))


# By the rule of the published file, at 56 pixels a side and at most 9 slices: of a picture's height and width, those
# of the whole made smaller, rows and columns of slices, and height and width of the picture that is cut.
SLICED = {
    (56, 56): ((56, 56), (0, 0), (0, 0)),
    (30, 20): ((70, 42), (0, 0), (0, 0)),
    (90, 190): ((42, 84), (2, 3), (84, 210)),
    (300, 80): ((112, 28), (7, 1), (294, 70)),
    (1000, 400): ((84, 28), (4, 2), (224, 112)),
    (500, 505): ((56, 56), (3, 3), (168, 168)),
    (333, 777): ((42, 84), (2, 4), (112, 224)),
}


def patches(picture: Image.Image) -> np.ndarray:
    """[patches, 3 * 14 * 14], row by row."""
    look = (np.asarray(picture, np.float32) / 255 - 0.5) / 0.5
    high, wide = picture.height // 14, picture.width // 14
    return look.reshape(high, 14, wide, 14, 3).transpose(0, 2, 4, 1, 3).reshape(high * wide, -1)


@pytest.mark.parametrize("size", SLICED)
def test_slices_are_cut_as_published(size: tuple[int, int], minicpm: Path) -> None:
    made = processor.load(minicpm).prompt(Case([image_part(*size), TEXT]).messages()).pictures
    (high, wide), (rows, columns), (cut_high, cut_wide) = SLICED[size]
    bicubic = Image.Resampling.BICUBIC
    shown = [picture(*size).resize((wide, high), bicubic)]
    if rows:
        large = picture(*size).resize((cut_wide, cut_high), bicubic)
        h, w = cut_high // rows, cut_wide // columns
        boxes = [(c * w, r * h, (c + 1) * w, (r + 1) * h) for r in range(rows) for c in range(columns)]
        shown += [large.crop(box) for box in boxes]
    assert made is not None
    assert made.grids == tuple((1, one.height // 14, one.width // 14) for one in shown)
    np.testing.assert_allclose(made.pixels, np.concatenate([patches(one) for one in shown]), atol=1e-5)
    tower = spec.read(minicpm).vision
    assert tower is not None
    assert count.counter(tower, "minicpmv", minicpm).image(*size).tokens == 8 * len(shown)


def test_the_words_around_slices_are_the_published_ones(minicpm: Path) -> None:
    loaded = processor.load(minicpm)
    rows = "<unk>" * 8
    line = f"<slice>{rows}</slice>" * 3
    first = f"<image_id>0</image_id><image>{rows}</image>"
    second = f"<image_id>1</image_id><image>{rows}</image>{line}\n{line}"
    head = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    text = f"{head}{first}\n{second}\n{TEXT['text']}<|im_end|>\n<|im_start|>assistant\n"
    case = Case([image_part(56, 56), image_part(90, 190), TEXT])
    assert loaded.prompt(case.messages()).ids == list(loaded.tokenizer(text)["input_ids"])
    assert loaded.prompt(Case([TEXT]).messages()).pictures is None


def test_smaller_slices_are_made_for_a_smaller_tower(minicpm: Path) -> None:
    made = processor.load(minicpm, 28 * 28).prompt(Case([image_part(500, 505), TEXT]).messages()).pictures
    assert made is not None
    assert set(made.grids) == {(1, 2, 2)}


def test_what_hears_and_speaks_is_left_out(tmp_path: Path) -> None:
    folder = remote_vision.make("minicpmo", tmp_path)
    with pytest.warns(UserWarning, match="apm.conv1.weight and 1 more: not a weight of the model, left out"):
        model = remote.load_whole(folder)
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"llm", "vpm", "resampler"}
    written = remote_vision.write_processor("minicpmo", tmp_path / "processor")
    made = processor.load(written).prompt(Case([image_part(90, 190), TEXT]).messages()).pictures
    assert made is not None
    assert len(made.grids) == 7


def test_text_that_looks_like_a_picture_is_refused(minicpm: Path) -> None:
    with pytest.raises(UserError, match="0 pictures for 1 places"):
        processor.load(minicpm).prompt([{"role": "user", "content": "(<image>./</image>)"}])


@pytest.mark.parametrize("side", [10, 70])
def test_positions_are_those_of_the_published_file(side: int) -> None:
    edges = torch.arange(1 / side, 1.0, 1 / side)
    for number in range(1, 71):
        places = torch.arange(0, 1 - 1e-6, 1 / torch.tensor(number, dtype=torch.int32))
        wanted = torch.bucketize(places, edges, right=True)
        assert vision.buckets(number, side).tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 2.5}, "version 2.5 of minicpmv is unknown"),
        ({"hidden_size": 192}, "a resampler from 64 to 192 channels"),
    ],
)
def test_other_minicpms_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        spec.from_config("minicpmv", remote_vision.MINICPM | change, "config.json")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"ps_version": "v1"}, "ps_version v1"),
        ({"force_image_size": 224}, "pictures of 224 pixels for a tower made for 56"),
        ({"vision_config": remote_vision.INTERNVL["vision_config"] | {"qk_normalization": True}}, "norms of q and k"),
        ({"llm_config": {"model_type": "phi3"}}, "a decoder of model_type 'phi3' are unknown"),
    ],
)
def test_other_towers_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        spec.from_config("internvl_chat", remote_vision.INTERNVL | change, "config.json")
