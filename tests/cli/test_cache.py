"""`cache`: what is kept is counted by name, and pruned in the order that costs least."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from cli import cache, main
from contract.errors import UserError

HOUR = 3600.0


def fill(folder: Path, size: int, age: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(bytes(size))
    then = time.time() - age
    for path in (folder / "data", folder):
        os.utime(path, (then, then))
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three idle steps, one that a build has, two checkpoints, and what a killed build and a killed fetch left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    steps, models = tmp_path / "out" / ".steps", tmp_path / "cache" / "hf2bmodel" / "models"
    for name, size, age in (("old", 100, 9), ("middle", 200, 5), ("young", 400, 1), ("shared", 800, 20)):
        fill(steps / name, size, age * HOUR)
    os.link(steps / "shared" / "data", tmp_path / "out" / "in-a-build")
    fill(models / "first-12345678", 1000, 30 * HOUR)
    fill(models / "second-12345678", 2000, 2 * HOUR)
    fill(steps / "abc.xyz.part", 50, 2 * HOUR)
    fill(models / ".part-now", 70, 0.1 * HOUR)
    return tmp_path


def listing(place: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main.main(["cache", "--out", str(place / "out"), "--json", *words]) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {key: [Path(one["path"]).name for one in found] for key, found in data.items()}


def test_what_is_kept_and_how_large(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["cache", "--out", str(place / "out")]) == 0
    out = capsys.readouterr().out
    assert "5 finished steps of the builds in" in out
    assert "1.6 KB, 750 bytes of it in no build any more" in out
    assert "first-12345678: 1.0 KB" in out
    assert main.main(["cache", "--out", str(place / "out"), "--size"]) == 0
    assert int(capsys.readouterr().out) == 100 + 200 + 400 + 50 + 1000 + 2000 + 70


def test_pruning_takes_idle_steps_and_old_remains(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listing(place, capsys, "--prune")
    assert sorted(found["removed"]) == ["abc.xyz.part", "middle", "old", "young"]
    assert sorted(found["kept"]) == [".part-now", "first-12345678", "second-12345678", "shared"]
    assert (place / "out" / "in-a-build").stat().st_size == 800


def test_a_limit_keeps_what_was_used_last_and_takes_checkpoints_after_steps(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listing(place, capsys, "--prune", "--limit", "3500")["removed"] == ["old", "middle", "abc.xyz.part"]
    assert listing(place, capsys, "--prune", "--limit", "2.2K")["removed"] == ["young", "first-12345678"]
    assert listing(place, capsys, "--prune", "--limit", "0")["removed"] == ["second-12345678"]


def test_a_place_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert listing(tmp_path, capsys, "--prune") == {"kept": [], "removed": []}


def test_sizes_are_read_and_mistakes_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"0": 0, "17": 17, "500M": 500 * 2**20, "10G": 10 * 2**30, "1.5k": 1536, "2TB": 2 * 2**40}
    assert {text: cache.parse(text, "--limit") for text in sizes} == sizes
    assert main.main(["cache", "--prune", "--limit", "much"]) == 2
    assert '--limit: "much" is no size; give one such as 500M or 10G' in capsys.readouterr().err
    assert main.main(["cache", "--limit", "1G"]) == 2
    assert "give --prune as well" in capsys.readouterr().err
    monkeypatch.setenv(cache.VARIABLE, "lots")
    with pytest.raises(UserError, match=cache.VARIABLE):
        cache.limit()
