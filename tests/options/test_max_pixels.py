"""MAX_PIXELS: the largest picture that the tower takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contract.errors import UserError
from contract.vision import Pictures
from runtime.engine import Engine
from tests import vision_models
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import manifest
from tests.options.conftest import Made
from tests.options.conversations import CHIP


@pytest.mark.toolchain
def test_the_tower_takes_so_many_patches(made: Made, tmp_path: Path) -> None:
    """And any picture of no more than those, of whatever shape."""
    folder = made(vision_models.bare("qwen2_vl", tmp_path / "sees"), "--mode", "bf16", "--max-pixels", "56,112")
    done = manifest(folder)
    assert done["status"] == "verified", done["reason"]
    assert {s["rung"] for s in done["parity"] if s["net"] == "vit"} == {"patched", "onnx", "chip"}
    with Engine(next(folder.glob("*.bmodel")), CHIP) as engine:
        tower = engine.tower
        assert tower
        assert tower.patches == 4 * 8

        def rows(high: int, wide: int) -> int:
            pixels = np.zeros((high * wide, 1176), np.float32)
            ((inputs, count),) = tower.launches(Pictures(pixels, ((1, high, wide),), (False,), (0.0,)))
            assert len(engine.run("vit", inputs)["image_embeds"]) >= count
            return count

        assert [rows(4, 8), rows(8, 4), rows(16, 2), rows(2, 2)] == [8, 8, 8, 1]
        with pytest.raises(UserError, match="a picture has 4 x 10 = 40 patches; this bmodel takes 32"):
            rows(4, 10)


def test_it_stands_in_the_name() -> None:
    assert recipe_plan("qwen2.5-vl-3b", max_pixels="336,448").folder.name.endswith("_px336-448")


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("qwen2.5-vl-3b", {"seq_length": 512}, "takes 768 positions, and a prompt has 512"),
        ("qwen2.5-vl-3b", {"input_length": 600}, "takes 768 positions, and a prompt has 600"),
        ("llava-1.5-7b", {"seq_length": 512}, "takes 576 positions, and a prompt has 512"),
        ("gemma3-4b", {"history": True, "input_length": 128}, "takes 256 positions, and a prompt has 128"),
    ],
)
def test_a_picture_must_fit_a_prompt(recipe: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_plan(recipe, **options)
    recipe_plan("qwen2.5-vl-3b", input_length=600, history=True)  # in chunks, it does


@pytest.mark.parametrize(
    ("recipe", "pixels", "message"),
    [
        (
            "qwen2.5-vl-3b",
            "600,900",
            "600 x 900 pixels are no multiples of 28 (patch 14 x merge 2); use 588,896, 588,924, 616,896 or 616,924",
        ),
        ("qwen3-vl-2b", "672,20", "672 x 20 pixels are no multiples of 32 (patch 16 x merge 2); use 672,32"),
        ("qwen2.5-vl-3b", "672x896", '"672x896" is no height and width; write them as 672,896'),
        ("qwen2.5-vl-3b", "0,896", '"0,896" is no height and width; write them as 672,896'),
        ("gemma3-4b", "448,448", "pictures of this model have one size; leave it out, or use 896,896"),
        ("qwen2.5-0.5b", "672,896", "qwen2 models see no pictures; leave it out"),
    ],
)
def test_what_cannot_be_is_refused(recipe: str, pixels: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_plan(recipe, max_pixels=pixels)
    assert str(error.value) == f"--max-pixels: {message}"
