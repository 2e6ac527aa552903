"""Accidents of a build with the real exporter and the real compiler: it ends with the bytes of an undisturbed one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.compile.faults import remains, small_disk, wait_for

pytestmark = pytest.mark.toolchain
ROOT = Path(__file__).parent.parent.parent
SEED = 20260802
RECIPE = """\
name: tiny
architecture: qwen2
source: {hub: someone/tiny}
seq_length: 96
mode: int4
group_size: 32
options: {sample: true}
prompt: "Hello"
"""


class Place:
    """A folder with a checkpoint and a recipe of its own; other places hold the same ones."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.model = folder / "checkpoint"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tiny.yaml").write_text(RECIPE)
        words = ("build", str(folder / "tiny.yaml"), "--model", str(self.model), "--out", str(self.out))
        self.command = [sys.executable, "-m", "cli.main", *words, "--verify", "none"]

    @property
    def folder(self) -> Path:
        (found,) = self.out.glob("tiny_*")
        return found

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def build(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command, cwd=ROOT, capture_output=True, text=True, check=False)

    def manifest(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        return data

    def published(self) -> Path:
        return self.folder / str(self.manifest()["bmodel"])

    def sha256(self) -> str:
        return hashlib.sha256(self.published().read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("plain"))
    tiny.make("qwen2", place.model, num_hidden_layers=1)
    done = place.build()
    assert done.returncode == 0, done.stderr
    assert place.manifest()["sha256"] == place.sha256()
    return place


def another(plain: Place, folder: Path) -> Place:
    place = Place(folder)
    shutil.copytree(plain.model, place.model)
    return place


def test_killed_again_and_again_in_another_place_it_gives_the_same_bytes(plain: Place, tmp_path: Path) -> None:
    place, chance = another(plain, tmp_path / "some" / "where" / "else"), random.Random(SEED)
    for number in range(6):
        process = place.start()
        wait_for(lambda: any(place.out.glob("tiny_*/work")), 60)
        time.sleep(chance.uniform(0.1, 2.5))
        (os.killpg if number % 2 else os.kill)(process.pid, signal.SIGKILL)
        process.communicate()
        wait_for(lambda process=process: not remains(process.pid))  # type: ignore[misc]
    done = place.build()
    assert done.returncode == 0, done.stderr
    assert place.sha256() == plain.sha256()
    assert not list(place.folder.glob("work/*.part"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "300m") as place:
        yield place


def fill(ballast: Path, room: int) -> None:
    """Take what the disk has, but for `room` bytes, from a build that takes it as well."""
    with ballast.open("wb") as file:
        with contextlib.suppress(OSError):
            while True:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), 2**18)
        file.truncate(max(0, file.seek(0, os.SEEK_END) - room))


def test_a_disk_that_fills_up_is_one_line_and_nothing_cut_short_is_used(plain: Place, disk: Path) -> None:
    """At the exporter, then at the compiler, which does not look whether what it writes arrives."""
    place, ballast = another(plain, disk / "place"), disk / "ballast"
    for step, room in (("trace", 0), ("bind.head", 2_000_000)):
        process = place.start()
        wait_for(lambda step=step: any(place.out.glob(f"*/work/{step}/step.json")), 60)  # type: ignore[misc]
        fill(ballast, room)
        _, said = process.communicate(timeout=120)
        last = [line for line in said.splitlines() if line.startswith("hf2bmodel: ")]
        assert process.returncode == 2, said
        assert len(last) == 1
        # In the middle of a step, or, where the ballast came sooner, before any work.
        assert re.search("the disk is full; make room and build again|the build may need .* are free", last[0])
        ballast.unlink()
    done = place.build()
    assert done.returncode == 0, done.stderr
    assert place.sha256() == plain.sha256()


def test_a_byte_of_the_published_bmodel_is_noticed_by_verify_and_mended_by_build(plain: Place) -> None:
    before = plain.sha256()
    stat = plain.published().stat()
    with plain.published().open("r+b") as file:  # one file with three names: in work/ and the shared store, too
        file.seek(stat.st_size // 2)
        byte = file.read(1)[0]
        file.seek(stat.st_size // 2)
        file.write(bytes([byte ^ 4]))
    os.utime(plain.published(), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    command = [sys.executable, "-m", "cli.main", "verify", str(plain.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "failed: " in done.stdout
    assert "the bmodel is not the one that the build made" in done.stdout
    assert plain.manifest()["status"] == "failed"
    again = plain.build()
    assert again.returncode == 0, again.stderr
    assert plain.sha256() == before


def test_rebuild_from_the_manifest_gives_the_same_bytes(plain: Place, tmp_path: Path) -> None:
    words = ["rebuild", str(plain.folder / "manifest.json"), "--out", str(tmp_path / "again"), "--verify", "none"]
    done = subprocess.run([sys.executable, "-m", "cli.main", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"the same bytes: {plain.sha256()[:12]}" in done.stdout
    (made,) = (tmp_path / "again").glob("tiny_*/*.bmodel")
    assert hashlib.sha256(made.read_bytes()).hexdigest() == plain.sha256()
