"""KEEP: intermediate files go when nothing reads them; a change of one layer's weights needs none of the others'."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.options.conftest import Made

pytestmark = pytest.mark.toolchain


def work(folder: Path, pattern: str) -> set[str]:
    return {str(p.relative_to(folder / "work")) for p in (folder / "work").glob(pattern)}


def finished(folder: Path) -> dict[str, int]:
    """When each step last ran."""
    return {p.parent.name: p.stat().st_mtime_ns for p in (folder / "work").glob("*/step.json")}


def test_what_passes_goes_unless_kept_and_one_layer_is_rebuilt_alone(
    made: Made, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    base = shutil.copytree(checkpoint("qwen2"), tmp_path / "model")
    words = ("--mode", "bf16", "--no-sample", "--verify", "none")
    folder = made(base, *words)
    assert work(folder, "bind.*/*") == {f"bind.{g}/step.json" for g in ("embedding", "head", "layer_0", "layer_1")}
    assert work(folder, "*/*.bmodel") == {f"combine/{folder.name}.bmodel"}
    first = json.loads((folder / "manifest.json").read_text())

    before = finished(folder)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(base / "model.safetensors")
    save_file({**tensors, name: -tensors[name]}, base / "model.safetensors", {"format": "pt"})
    assert made(base, *words) == folder
    after = finished(folder)
    ran = {step for step in after if after[step] != before[step] and not step.startswith("bind.")}
    assert ran == {"trace", "block_1", "block_cache_1", "join.layer_1", "combine"}

    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    assert made(base, *words, "--keep") == folder
    assert json.loads((folder / "manifest.json").read_text())["sha256"] == first["sha256"]
    assert {"bind.layer_0/weights.npz", "block_0/block_0.bmodel"} <= work(folder, "*/*")
