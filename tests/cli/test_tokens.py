"""`hf2bmodel tokens`: counts and their arithmetic, for recipes, checkpoints and build folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cli import main
from contract import manifest
from contract.manifest import Manifest
from tests import vision_models


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    code = main.main(["tokens", *words])
    said = capsys.readouterr()
    return code, (said.out or said.err).splitlines()


def test_the_promised_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--model", "qwen2.5-vl-3b", "--image", "672x896") == (
        0,
        ["image 672x896: 672x896 pixels, 48 x 64 patches / 4 = 768"],
    )
    _, lines = run(capsys, "--model", "qwen2.5-vl-3b", "--video", "20", "--fps", "1")
    assert lines == ["video of 20 s: 20 frames of 336x448 pixels, 10 x 24 x 32 patches / 4 = 1920"]


def test_several_are_added_up_and_larger_ones_made_smaller(capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--image",
        "300x300",
        "--image",
        "5000x5000",
        "--video",
        "2:100x100",
        "--fps",
        "2",
        "--max-pixels",
        "280,560",
    )
    code, lines = run(capsys, "--model", "qwen2-vl-7b", *words)
    assert (code, len(lines)) == (0, 4)
    assert lines[-1] == "together: 121 + 196 + 32 = 349"
    assert int(lines[1].split(" = ")[1]) <= 280 * 560 // 28**2


def test_a_file_and_a_checkpoint_will_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    vision_models.make("qwen2_5_vl", tmp_path / "model")
    Image.new("RGB", (112, 56)).save(tmp_path / "a.png")
    _, lines = run(capsys, "--model", str(tmp_path / "model"), "--image", str(tmp_path / "a.png"))
    assert lines == ["image 56x112: 56x112 pixels, 4 x 8 patches / 4 = 8"]


def test_a_build_says_itself_how_large_pictures_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    vision_models.make("qwen2_5_vl", tmp_path / "config")
    made = Manifest("n", "x.bmodel", "r", {}, {"max_pixels": "112,112"}, {}, status=manifest.VERIFIED)
    manifest.write(made, tmp_path)
    _, lines = run(capsys, "--model", str(tmp_path), "--image", "500x500")
    assert lines == ["image 500x500: 112x112 pixels, 8 x 8 patches / 4 = 16"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("qwen2.5-vl-3b",), "nothing to count; give --image 672x896, or --video 20"),
        (("qwen2.5-vl-3b", "--image", "large"), '--image: "large" is no height and width; write them as 672x896'),
        (("qwen2.5-vl-3b", "--image", "0x9"), '--image: "0x9" is no height and width'),
        (("qwen2.5-vl-3b", "--video", "long"), '--video: "long" is no number of seconds; write 20, or 20:672x896'),
        (("qwen2.5-vl-3b", "--video", "20", "--fps", "-1"), "--fps: video of 20 s: no frames at -1 a second"),
        (("qwen2.5-vl-3b", "--image", "9x9", "--max-pixels", "9"), '--max-pixels: "9" is no height and width'),
        (("qwen2.5-3b", "--image", "9x9"), "qwen2.5-3b: qwen2 models see no pictures"),
        (("qwen2.6-vl", "--image", "9x9"), 'recipe "qwen2.6-vl" is unknown; did you mean qwen2.5-vl-'),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, "--model", *words)
    assert (code, len(lines)) == (2, 1)
    assert message in lines[0]
