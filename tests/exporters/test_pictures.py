"""Files that people give as pictures and videos: opened as transformers opens them, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import video_utils
from transformers.image_utils import load_image

from contract.errors import UserError
from exporters import pictures
from tests import real_code

RED, BLUE = (250, 10, 20), (10, 20, 240)


def halves(width: int = 64, height: int = 32) -> Image.Image:
    """Red on the left, blue on the right."""
    made = Image.new("RGB", (width, height), RED)
    made.paste(BLUE, (width // 2, 0, width, height))
    return made


def _exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn it a quarter to the right
    halves().save(path, exif=exif, quality=95)


def _animated(path: Path) -> None:
    halves().save(path, save_all=True, append_images=[Image.new("RGB", (64, 32), "green")])


KINDS = {
    "rgb.png": lambda path: halves().save(path),
    "cmyk.jpg": lambda path: halves().convert("CMYK").save(path, quality=95),
    "palette.gif": lambda path: halves().convert("P").save(path),
    "palette.png": lambda path: halves().convert("P", palette=Image.Palette.ADAPTIVE, colors=2).save(path),
    "alpha.png": lambda path: halves().convert("RGBA").save(path),
    "grey.png": lambda path: halves().convert("L").save(path),
    "deep.png": lambda path: Image.fromarray(np.full((32, 64), 40000, np.uint16)).save(path),
    "one-bit.png": lambda path: halves().convert("1").save(path),
    "rotated.jpg": _exif,
    "animated.gif": _animated,
    "animated.webp": _animated,
}


@pytest.mark.parametrize("name", KINDS)
def test_any_kind_is_opened_as_transformers_opens_it(name: str, tmp_path: Path) -> None:
    KINDS[name](tmp_path / name)
    made = pictures.image(tmp_path / name)
    assert made.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(made), np.asarray(load_image(str(tmp_path / name))))


@pytest.mark.parametrize("name", ["rgb.png", "cmyk.jpg", "palette.png", "animated.gif", "animated.webp"])
def test_colours_survive(name: str, tmp_path: Path) -> None:
    KINDS[name](tmp_path / name)
    made = pictures.image(tmp_path / name)
    assert made.size == (64, 32)
    for place, colour in (((5, 5), RED), ((60, 5), BLUE)):
        assert np.abs(np.array(made.getpixel(place)) - colour).max() < 25


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    _exif(tmp_path / "rotated.jpg")
    made = pictures.image(tmp_path / "rotated.jpg")
    assert made.size == (32, 64)
    assert np.abs(np.array(made.getpixel((16, 5))) - RED).max() < 25  # its left side is now above


def test_a_truncated_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"a\.jpg: damaged picture \(.*truncated.*\); give a picture"):
        pictures.image(path)


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7 no picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: (not a|damaged) picture") as caught:
        pictures.image(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    halves().save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"too large \(Image size \(2048 pixels\) exceeds limit of 1000 pixels\)"):
        pictures.image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["none.png", "folder"])
def test_a_missing_picture_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="no such picture"):
        pictures.image(tmp_path / name)


def everything(total: int, fps: float, wanted: float) -> np.ndarray:
    return np.arange(total)


def test_a_folder_of_frames_is_taken_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    (tmp_path / ".hidden").write_text("no frame")
    made = pictures.video(tmp_path, 2.0, everything)
    assert made.frames.shape == (3, 6, 8, 3)
    assert made.frames[:, 0, 0, 0].tolist() == [1, 9, 10]
    assert (made.total, made.fps, list(made.numbers)) == (3, 2.0, [0, 1, 2])


def test_frames_of_two_sizes_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 7)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"b\.png: this frame is 7x8, the first one 6x8"):
        pictures.video(tmp_path, 1.0, everything)


def test_a_folder_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frames in here"):
        pictures.video(tmp_path, 1.0, everything)


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such video"):
        pictures.video(tmp_path / "a.mp4", 1.0, everything)


def test_without_pyav_a_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import import_utils

    monkeypatch.setattr(import_utils, "is_av_available", lambda: False)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="pip install av, or name a folder of its frames"):
        pictures.video(tmp_path / "a.mp4", 1.0, everything)


@pytest.fixture
def av(monkeypatch: pytest.MonkeyPatch) -> Any:
    from transformers.utils import import_utils

    monkeypatch.syspath_prepend(real_code.folder("av"))
    monkeypatch.setattr(import_utils, "is_av_available", lambda: True)
    monkeypatch.setattr(video_utils, "is_av_available", lambda: True)
    return pytest.importorskip("av")


def _film(av: Any, path: Path) -> None:
    """Three seconds of eight frames each, which get redder."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(24):
            plane = np.zeros((48, 64, 3), np.uint8)
            plane[..., 0] = 10 * number
            container.mux(stream.encode(av.VideoFrame.from_ndarray(plane, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.slow
def test_frames_of_a_file_are_those_that_were_asked_for(av: Any, tmp_path: Path) -> None:
    _film(av, tmp_path / "a.mp4")
    asked = []

    def sample(total: int, fps: float, wanted: float) -> np.ndarray:
        asked.append((total, fps, wanted))
        return np.array([0, 8, 16])

    made = pictures.video(tmp_path / "a.mp4", 1.5, sample)
    assert asked == [(24, 8.0, 1.5)]
    assert (made.total, made.fps, list(made.numbers)) == (24, 8.0, [0, 8, 16])
    assert made.frames.shape == (3, 48, 64, 3)
    assert np.abs(made.frames[:, 20, 20, 0].astype(int) - [0, 80, 160]).max() < 12


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"no video at all", b"\0\0\0\x18ftypmp42 cut off"])
def test_a_file_that_is_no_video_is_refused(content: bytes, av: Any, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mp4: not a video that can be read \(.*\); give a video") as caught:
        pictures.video(tmp_path / "a.mp4", 1.0, everything)
    assert "\n" not in str(caught.value)
