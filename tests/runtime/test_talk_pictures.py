"""`generate` and `chat` with pictures: what is refused before the engine starts, and what a build answers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from cli import talk, talker
from contract import manifest
from contract.errors import UserError
from contract.manifest import Manifest
from contract.vision import Prompt
from exporters import pictures, processor, show
from tests import vision_models
from tests.end_to_end.test_line import RECIPE, hf2bmodel
from tests.runtime.test_bmodel import path as small_bmodel  # noqa: F401  (a fixture)

LARGEST = 84
# Side of the largest picture, and positions. GLM's template takes more tokens, and its pictures have more pixels.
SIZES = {"qwen2_5_vl": (LARGEST, 96), "glm4v": (112, 192)}
IDS = vision_models.IDS
TOWER = {"patches": 36, "merge": 2, "rows": 9, "image_token": IDS["<|image_pad|>"], "video_token": IDS["<|video_pad|>"]}


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    talk.add_parsers(parser.add_subparsers(required=True))
    return parser.parse_args(words)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.png and b.jpg, and four frames in c/."""
    folder = tmp_path_factory.mktemp("files")
    drawn = Image.new("RGB", (90, 60), "green")
    ImageDraw.Draw(drawn).rectangle((10, 10, 40, 40), fill="red")
    drawn.save(folder / "a.png")
    Image.new("RGB", (60, 60), "blue").save(folder / "b.jpg")
    (folder / "c").mkdir()
    for number in range(4):
        Image.new("RGB", (60, 60), (60 * number, 0, 0)).save(folder / "c" / f"{number}.png")
    return folder


@pytest.fixture
def sighted(small_bmodel: Path) -> Path:  # noqa: F811
    """A build folder whose bmodel is as good as none, so that what answers has not looked into it."""
    folder = small_bmodel.parent
    geometry = {"seq_length": 40, "input_length": 0}
    options = {"max_pixels": f"{LARGEST},{LARGEST}"}
    made = Manifest("n", small_bmodel.name, "r", {"tower": TOWER}, options, geometry, status=manifest.VERIFIED)
    manifest.write(made, folder)
    vision_models.write_processor("qwen2_5_vl", folder / "config")
    return folder


@pytest.fixture(autouse=True)
def engine_starts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests without the toolchain must not get so far."""
    if not request.node.get_closest_marker("toolchain"):
        monkeypatch.setattr(talker.Talker, "__enter__", lambda self: pytest.fail("the engine was started"))


def generate(folder: Path, *words: str) -> str:
    args = parse("generate", str(folder), "--prompt", "Describe this picture.", *words)
    with pytest.raises(UserError) as caught:
        args.run(args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_shown_is_refused_before_work(sighted: Path, files: Path) -> None:
    assert "none.png: no such picture" in generate(sighted, "--image", str(files / "none.png"))
    (files / "broken.png").write_bytes((files / "a.png").read_bytes()[:90])
    assert "broken.png: damaged picture" in generate(sighted, "--image", str(files / "broken.png"))
    (files / "empty").mkdir()
    assert "empty: no frames in here" in generate(sighted, "--video", str(files / "empty"))


def test_a_prompt_that_does_not_fit_is_refused_with_the_arithmetic(sighted: Path, files: Path) -> None:
    said = generate(
        sighted, "--image", str(files / "a.png"), "--image", str(files / "b.jpg"), "--video", str(files / "c")
    )
    assert "tokens (pictures 4 x 6 patches / 4 + 4 x 4 patches / 4 + 2 x 2 x 2 patches / 4 = 12, text" in said
    assert said.endswith("it takes 40; show less, or smaller pictures")


def test_a_bmodel_without_a_tower_sees_nothing(sighted: Path, files: Path) -> None:
    (sighted / manifest.NAME).unlink()
    said = generate(sighted, "--image", str(files / "a.png"))
    assert said == f"{sighted / 'a.bmodel'}: this bmodel sees no pictures; leave --image out"


def test_pictures_come_in_the_order_of_the_command_line() -> None:
    args = parse("generate", "x", "--prompt", "y", "--image", "a", "--video", "b", "--image", "c")
    assert args.shown == [("image", Path("a")), ("video", Path("b")), ("image", Path("c"))]
    assert parse("generate", "x", "--prompt", "y").shown == []  # a list of its own each time


@pytest.fixture(scope="module", params=["qwen2_5_vl", "glm4v"])
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and the folder of its build."""
    out, name = tmp_path_factory.mktemp("out"), request.param
    checkpoint = vision_models.make(name, out / "checkpoint")
    (out / "tiny.yaml").write_text(RECIPE.format(architecture=name))
    side, length = SIZES[name]
    words = ("--mode", "f16", "--max-pixels", f"{side},{side}", "--verify", "none", "--no-sample")
    words += ("--seq-length", str(length))
    done = hf2bmodel("build", str(out / "tiny.yaml"), "--model", str(checkpoint), "--out", str(out / "made"), *words)
    (made,) = (out / "made").glob("*/manifest.json")
    assert done.returncode == 0, done.stderr
    return checkpoint, made.parent


@pytest.mark.toolchain
def test_answers_are_hugging_faces(build: tuple[Path, Path], files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    checkpoint, folder = build
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    side, _ = SIZES[model.config.model_type]
    loaded = processor.load(checkpoint, side**2)
    opened = {
        "a.png": {"type": "image", "image": pictures.image(files / "a.png")},
        "b.jpg": {"type": "image", "image": pictures.image(files / "b.jpg")},
        "c": {"type": "video", "video": pictures.video(files / "c", 1.0, loaded.sample)},
    }
    asked_for = [[], ["a.png"], ["b.jpg", "a.png"], ["c"], ["a.png", "c"]]
    if model.config.model_type == "glm4v":
        asked_for.pop()  # Hugging Face's refuses both in one prompt; tests/end_to_end/test_vision.py puts them together
    for names in asked_for:
        text = {"type": "text", "text": "Describe."}
        asked: Prompt = loaded.prompt([{"role": "user", "content": [*[opened[name] for name in names], text]}])
        more: dict[str, Any] = show.arguments(model, asked.pictures, asked.ids) if asked.pictures else {}
        ids = torch.tensor([asked.ids])
        wanted = model.generate(ids, max_new_tokens=6, do_sample=False, **more)[0, len(asked.ids) :].tolist()
        words = [word for name in names for word in ("--video" if name == "c" else "--image", str(files / name))]
        args = parse("generate", str(folder), "--prompt", "Describe.", "--max-new-tokens", "6", "--json", *words)
        assert args.run(args) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["prompt_tokens"] == len(asked.ids), names
        assert answer["tokens"] == [token for token in wanted if token != IDS["<|im_end|>"]], names


@pytest.mark.toolchain
def test_chat_shows_pictures(
    build: tuple[Path, Path], files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = build
    typed = [
        f"/image '{files / 'a.png'}'",
        "Describe.",
        "/image nowhere.png",
        f"/video {files / 'c'}",
        "Describe.",
        "/clear",
    ]
    lines = iter([*typed, f"/image {files / 'a.png'}", "Describe.", "/exit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    args = parse("chat", str(folder), "--max-new-tokens", "3")
    assert args.run(args) == 0
    said = capsys.readouterr()
    answers = said.out.splitlines()
    assert len(answers) == 3
    assert answers[0] == answers[2]  # the same after /clear
    assert "nowhere.png: no such picture" in said.err
