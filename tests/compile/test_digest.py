"""Digests follow content, and a file that did not change is read once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from compile import digest
from compile.digest import Digests


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are really read."""
    seen: list[str] = []
    stream = digest._stream
    monkeypatch.setattr(digest, "_stream", lambda file: seen.append(Path(file.name).name) or stream(file))
    return seen


def test_a_file_is_read_again_only_after_a_change(tmp_path: Path, reads: list[str]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    digests = Digests(tmp_path / "store.json")
    assert digests.file(path) == hashlib.sha256(b"one").hexdigest()
    digests.save()
    again = Digests(tmp_path / "store.json")
    again.file(path)
    assert reads == ["a.bin"]
    stat = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same mtime
    assert again.file(path) == hashlib.sha256(b"two").hexdigest()
    assert reads == ["a.bin", "a.bin"]


def test_a_folder_is_its_weights_and_configuration(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    digests = Digests(tmp_path / "store.json")
    first = digests.path(model)
    (model / "README.md").write_text("words")
    assert digests.path(model) == first
    (model / "model.safetensors").write_bytes(b"weighty")
    changed = digests.path(model)
    assert changed != first
    (model / "config.json").rename(model / "other.json")
    assert digests.path(model) not in (first, changed)


def test_code_below_a_folder_counts(tmp_path: Path) -> None:
    """exporters.remote imports it."""
    code = tmp_path / "model" / "nlp" / "backbone.py"
    code.parent.mkdir(parents=True)
    code.write_text("LAYERS = 1")
    (code.parent / "notes.json").write_text("{}")
    digests = Digests(tmp_path / "store.json")
    first = digests.path(tmp_path / "model")
    code.write_text("LAYERS = 2")
    assert digests.path(tmp_path / "model") != first
    assert list(digests.folder(tmp_path / "model")) == ["nlp/backbone.py"]


def test_a_damaged_store_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text("{")
    (tmp_path / "a").write_bytes(b"a")
    assert Digests(tmp_path / "store.json").file(tmp_path / "a") == hashlib.sha256(b"a").hexdigest()


def test_sources_follow_name_and_text(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    first = digest.sources([tmp_path])
    (tmp_path / "a.py").write_text("2")
    second = digest.sources([tmp_path])
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, digest.sources([tmp_path])}) == 3


def test_after_a_restart_of_the_machine_everything_is_read_again(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut can leave a file with its size and times and without its content."""
    (tmp_path / "a.bin").write_bytes(b"one")
    first = Digests(tmp_path / "store.json")
    first.file(tmp_path / "a.bin")
    first.save()
    monkeypatch.setattr(digest, "_boot", lambda: "another")
    Digests(tmp_path / "store.json").file(tmp_path / "a.bin")
    assert reads == ["a.bin", "a.bin"]


def test_a_change_within_a_tick_of_the_clock_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On most kernels, files written one right after the other have the same times."""
    state, tick = digest.stamp, 10**7

    def coarse(file: Path) -> tuple[str, list[int]]:
        key, (size, *times) = state(file)
        return key, [size, *(time // tick * tick for time in times)]

    monkeypatch.setattr(digest, "stamp", coarse)
    path, digests = tmp_path / "a.bin", Digests(tmp_path / "store.json")
    for turn in range(20):
        path.write_bytes(b"old")
        old = digests.file(path)
        path.write_bytes(b"new")
        assert digests.file(path) != old, turn


def test_a_name_more_is_no_change_of_the_content(tmp_path: Path, reads: list[str]) -> None:
    path, digests = tmp_path / "a.bin", Digests(tmp_path / "store.json")
    path.write_bytes(b"one")
    digests.file(path)
    os.link(path, tmp_path / "b.bin")
    digests.linked(tmp_path / "b.bin")
    digests.file(path)
    assert reads == ["a.bin"]
    os.link(path, tmp_path / "c.bin")
    path.write_bytes(b"two")
    digests.linked(path)
    assert digests.file(path) == hashlib.sha256(b"two").hexdigest()
