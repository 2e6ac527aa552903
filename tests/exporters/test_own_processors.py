"""Prompts of checkpoints whose own code prepares pictures, against that code."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.errors import UserError
from exporters import count, processor, spec
from tests import real_code, remote_vision, vision_models
from tests.exporters.test_processor import TEXT, Case, image_part, picture

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
    vision = spec.read(intern).vision
    assert vision is not None
    assert made.ids.count(vision.image_token) == len(wanted) * vision.rows
    assert count.counter(vision, "internvl_chat", intern).image(*size).tokens == len(wanted) * vision.rows


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


def test_videos_and_unknown_settings_are_refused(intern: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes no videos"):
        processor.load(intern).prompt(
            [{"role": "user", "content": [{"type": "video", "video": Image.new("RGB", (9, 9))}]}]
        )
    folder = remote_vision.write_processor("internvl_chat", tmp_path, use_thumbnail=False)
    with pytest.raises(UserError, match="tiles without a thumbnail"):
        processor.load(folder)


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
