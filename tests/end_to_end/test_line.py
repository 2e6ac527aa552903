"""The whole line on real parts: checkpoint, exporter, tpu-mlir, simulator, tokens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compile import forks
from tests import servers

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.toolchain
RECIPE = """\
name: tiny
architecture: {architecture}
source: {{hub: someone/tiny}}
seq_length: 96
mode: int4
group_size: 32
options: {{sample: true}}
prompt: "Hello"
"""
Build = Callable[..., tuple[Path, subprocess.CompletedProcess[str]]]


def hf2bmodel(*words: str, warm: bool = True) -> subprocess.CompletedProcess[str]:
    """The command line. `warm`: a build of a test with the compiler may use the test run's fork servers."""
    command = [sys.executable, "-m", "cli.main", *words]
    lent = servers.lent() if warm and words[0] == "build" else {}
    env = {**os.environ, forks.LENT: json.dumps(lent)}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=env, pass_fds=list(lent.values())
    )


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]) -> Build:
    """Builds a tiny checkpoint by the command line; the build's folder and what the command said."""
    out = tmp_path_factory.mktemp("out")

    def run(name: str, *options: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
        recipe = out / "tiny.yaml"
        recipe.write_text(RECIPE.format(architecture=name.split("-")[0]))
        words = ("--model", str(checkpoint(name)), "--out", str(out / name), *options)
        done = hf2bmodel("build", str(recipe), *words, warm=False)  # as for a user, who has no test run
        made = max((out / name).glob("*/manifest.json"), key=lambda p: p.stat().st_mtime).parent
        return made, done

    return run


def manifest(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return data


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qwen2", ("--mode", "bf16")),
        ("qwen2", ("--mode", "f16", "--no-sample")),
        ("llama", ("--mode", "int8")),
        ("llama-rope-scaled-tied", ("--mode", "bf16")),
        ("qwen2-tied", ("--mode", "bf16", "--chip", "bm1688")),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v[1::2]),
)
def test_every_mode_and_chip_climbs_the_ladder(name: str, options: tuple[str, ...], build: Build) -> None:
    folder, done = build(name, *options)
    assert done.returncode == 0, done.stderr
    made = manifest(folder)
    assert made["status"] == "verified"
    assert {s["rung"] for s in made["parity"]} == {"patched", "onnx", "chip", "tokens"}
    assert all(s["passed"] for s in made["parity"])
    assert all(net["cycles"] for name, net in made["nets"].items() if not name.endswith("_head"))
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "config" / "config.json").is_file()


def test_a_second_build_does_nothing_and_ships_the_same_bytes(build: Build) -> None:
    folder, _ = build("qwen2", "--mode", "bf16")
    before = (folder / manifest(folder)["bmodel"]).read_bytes()
    again, done = build("qwen2", "--mode", "bf16", "--verify", "none")
    assert again == folder
    assert "up to date" in done.stderr
    assert (folder / manifest(folder)["bmodel"]).read_bytes() == before
    assert manifest(folder)["status"] == "unverified"


def test_a_bmodel_of_other_weights_is_marked_failed(
    build: Build, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The bmodel of one checkpoint under the manifest of another: the ladder must notice, say where, and exit 1."""
    right, _ = build("qwen2", "--mode", "bf16")
    folder = shutil.copytree(right, tmp_path / "copy")
    other, _ = build("llama", "--mode", "bf16", "--verify", "none")
    name = manifest(folder)["bmodel"]
    (folder / name).unlink()
    shutil.copy(other / manifest(other)["bmodel"], folder / name)
    done = hf2bmodel("verify", str(folder), "--json")
    assert done.returncode == 1
    verdict = json.loads(done.stdout)
    assert verdict["status"] == manifest(folder)["status"] == "failed"
    assert verdict["reason"].startswith("rung chip: block_0 (layer 0) has cosine")
    assert "block_0" in (folder / "report.html").read_text()


def test_verify_passes_again_and_generate_continues(build: Build) -> None:
    folder, _ = build("qwen2", "--mode", "bf16")
    done = hf2bmodel("verify", str(folder))
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout
    assert "FAIL" not in done.stdout


def test_a_damaged_bmodel_is_one_line(build: Build, tmp_path: Path) -> None:
    folder, _ = build("qwen2", "--mode", "bf16")
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("work"))
    name = manifest(copy)["bmodel"]
    data = (copy / name).read_bytes()
    (copy / name).unlink()
    (copy / name).write_bytes(data[: len(data) // 2])
    for command in (("generate", str(copy), "--prompt", "x", "--raw"), ("chat", str(copy))):
        done = hf2bmodel(*command)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert "truncated" in done.stderr


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """stories15m, trained weights from the package registry, in a mode; it must come out verified."""
    out = tmp_path_factory.mktemp("stories")

    def run(mode: str) -> Path:
        if not list(out.glob(f"stories15m_{mode}_*")):
            done = hf2bmodel("build", "stories15m", "--mode", mode, "--out", str(out))
            assert done.returncode == 0, done.stderr
        return next(out.glob(f"stories15m_{mode}_*"))

    return run


def test_stories15m_in_bf16_talks_as_hugging_face_does(stories: Callable[[str], Path]) -> None:
    folder = stories("bf16")
    (tokens,) = (s for s in manifest(folder)["parity"] if s["rung"] == "tokens")
    assert tokens["value"] >= 62 / 64
    reference = json.loads((folder / "work/parity/reference/tokens.json").read_text())
    said = hf2bmodel("generate", str(folder), "--prompt", "Once upon a time", "--max-new-tokens", "24", "--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["tokens"] == reference["expected"][:24]
    long = hf2bmodel("generate", str(folder), "--prompt", "word " * 400, "--json")
    assert long.returncode == 2
    assert "256" in long.stderr


def test_stories15m_in_int4_passes_its_bars(stories: Callable[[str], Path]) -> None:
    """int4 is measured on trained weights: random ones leave near-ties everywhere."""
    folder = stories("int4")
    made = manifest(folder)
    assert made["status"] == "verified"
    assert min(s["value"] for s in made["parity"] if s["metric"] == "cosine") >= 0.96
    weights = {mode: manifest(stories(mode))["nets"]["block_cache_0"]["bytes"] for mode in ("int4", "bf16")}
    assert weights["int4"] < weights["bf16"]
