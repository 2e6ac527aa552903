"""The compiler's kernels for attention: lent to each step, kept when whole, and refused when not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from compile.kernels import FOLDER, Kernels
from tests import tiny
from tests.end_to_end.test_line import RECIPE, hf2bmodel

FUSED = '%1 = "tpu.FAttention"(%0)'


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Kernels("one")


@pytest.fixture
def step(tmp_path: Path, kernels: Kernels) -> Path:
    return lent(kernels, tmp_path / "step")


def lent(kernels: Kernels, folder: Path) -> Path:
    folder.mkdir()
    kernels.lend(folder)
    return folder


def kernel(step: Path, name: str, code: int = 0) -> Path:
    """What the compiler leaves of one: its row in flag.txt, and, if it was built, its files."""
    with (step / FOLDER / "flag.txt").open("a") as flags:
        flags.write(f"{name} {code}\n")
    made = step / FOLDER / name
    made.mkdir()
    if code == 0:
        (made / "lib").mkdir()
        (made / "lib" / "libkernel.so").write_bytes(name.encode())
        (made / "compiled").touch()
        (made / "source.cpp").write_text("not read again")
    return made


def net(step: Path, commands: str) -> None:
    """A net with fused attention, and the list of what the chip is told."""
    (step / "block_0").mkdir()
    (step / "block_0/final.mlir").write_text(FUSED)
    (step / "compiler_profile_0.txt").write_text(commands)


def test_what_a_step_builds_is_lent_to_the_next(kernels: Kernels, step: Path, tmp_path: Path) -> None:
    kernel(step, "11")
    assert kernels.collect(step) == ""
    assert sorted(p.relative_to(kernels.folder).as_posix() for p in kernels.folder.rglob("*") if p.is_file()) == [
        "11/compiled",
        "11/lib/libkernel.so",
    ]
    second = lent(kernels, tmp_path / "second")
    assert (second / FOLDER / "flag.txt").read_text() == "11 0\n"
    assert (second / FOLDER / "11/lib/libkernel.so").read_bytes() == b"11"
    kernel(second, "12")
    assert kernels.collect(second) == ""
    assert {path.name for path in kernels.folder.iterdir()} == {"11", "12"}
    assert not (kernels.folder / "11").is_symlink()


def test_another_toolchain_has_its_own(kernels: Kernels, step: Path, tmp_path: Path) -> None:
    kernel(step, "11")
    kernels.collect(step)
    assert (lent(Kernels("two"), tmp_path / "other") / FOLDER / "flag.txt").read_text() == ""


def test_processes_that_do_not_see_our_files_get_none(kernels: Kernels, step: Path, tmp_path: Path) -> None:
    kernel(step, "11")
    kernels.collect(step)
    folder = lent(Kernels("one", linked=False), tmp_path / "away")
    assert [path.name for path in (folder / FOLDER).iterdir()] == ["flag.txt"]


def test_a_kernel_that_could_not_be_built_is_told(kernels: Kernels, step: Path) -> None:
    kernel(step, "11", 32512)
    assert kernels.collect(step) == (
        "the compiler's kernel for attention could not be built (code 32512): it needs cmake and g++"
    )
    assert not kernels.folder.exists()


def test_blocks_that_do_not_fit_are_no_fault_and_remembered(kernels: Kernels, step: Path, tmp_path: Path) -> None:
    kernel(step, "11", 17)
    kernel(step, "12")
    assert kernels.collect(step) == ""
    second = lent(kernels, tmp_path / "second")
    assert (second / FOLDER / "flag.txt").read_text() == "11 17\n12 0\n"
    assert kernels.collect(second) == ""
    assert {path.name for path in kernels.folder.iterdir()} == {"11", "12"}


def test_one_that_lost_its_files_is_not_taken_for_one_that_does_not_fit(
    kernels: Kernels, step: Path, tmp_path: Path
) -> None:
    """It is not lent, and is kept again when it is built again."""
    kernel(step, "11")
    kernels.collect(step)
    for path in (kernels.folder / "11").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    second = lent(kernels, tmp_path / "second")
    assert [path.name for path in (second / FOLDER).iterdir()] == ["flag.txt"]
    assert (second / FOLDER / "flag.txt").read_text() == ""
    kernel(second, "11")
    assert kernels.collect(second) == ""
    assert (lent(kernels, tmp_path / "third") / FOLDER / "flag.txt").read_text() == "11 0\n"


def test_another_fault_beside_them_is_one(kernels: Kernels, step: Path) -> None:
    kernel(step, "11", 17)
    kernel(step, "12")
    kernel(step, "13", 32512)
    assert "(code 32512)" in kernels.collect(step)


def test_a_kernel_that_is_listed_and_gone_is_told(kernels: Kernels, step: Path) -> None:
    made = kernel(step, "11")
    (made / "lib/libkernel.so").unlink()
    assert kernels.collect(step) == "the compiler's kernel 11 for attention is gone"
    assert not kernels.folder.exists()


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        ("|MM2|FAttention\n|MM2|\n", ""),
        ("|MM2|\n", "the compiler left attention out of the net"),
        ("", ""),  # a dynamic net has no list
    ],
)
def test_attention_that_is_not_among_the_commands_is_told(
    commands: str, reason: str, kernels: Kernels, step: Path
) -> None:
    net(step, commands)
    assert kernels.collect(step) == reason


@pytest.mark.toolchain
def test_neither_a_cache_that_lost_a_kernel_nor_one_of_many_does_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of kernels come from a first build; then a cache of the user's says that they are built, and has none
    of them. Beside them lie more than the compiler would keep."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    checkpoint = tiny.make("qwen2", tmp_path / "checkpoint")
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(architecture="qwen2"))

    def cycles(out: str) -> int:
        words = ("--mode", "bf16", "--verify", "none", "--out", str(tmp_path / out))
        done = hf2bmodel("build", str(tmp_path / "tiny.yaml"), "--model", str(checkpoint), *words)
        assert done.returncode == 0, done.stderr
        (found,) = (tmp_path / out).glob("*/manifest.json")
        return int(json.loads(found.read_text())["nets"]["block_0"]["cycles"])

    wanted = cycles("clean")
    (cache,) = (tmp_path / "first/hf2bmodel/kernels").iterdir()
    known = [path.name for path in cache.iterdir()]
    assert known
    for number in range(120):
        shutil.copytree(next(cache.glob("*/compiled")).parent, cache / str(10**18 + number))
    before = sorted(str(path.relative_to(cache)) for path in cache.rglob("*"))
    assert cycles("many") == wanted
    assert sorted(str(path.relative_to(cache)) for path in cache.rglob("*")) == before
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    (poisoned / "flag.txt").write_text("".join(f"{name} 0\n" for name in known))
    monkeypatch.setenv("PPL_CACHE_PATH", str(poisoned))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    assert cycles("again") == wanted
