"""bench: made-up checkpoints are read as real ones; the exporter's memory does not grow with the layers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cli import bench
from exporters import spec as specs
from exporters.architecture import find
from exporters.checkpoint import Checkpoint

ROOT = Path(__file__).parent.parent.parent
TINY = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
TINY |= {"vocab_size": 500, "num_hidden_layers": 2}


@pytest.mark.parametrize("tied", [True, False])
def test_a_made_up_checkpoint_is_whole(tmp_path: Path, tied: bool) -> None:
    folder = bench.checkpoint(tmp_path / "model", {**TINY, "tie_word_embeddings": tied}, random=True)
    spec, made = specs.read(folder), Checkpoint(folder)
    made.require(find("qwen2").required_weights(spec))
    assert (spec.layers, spec.tied, spec.dtype) == (2, tied, "bfloat16")
    values = made.read("model.layers.1.mlp.up_proj.weight")
    assert values.std() == pytest.approx(0.02, rel=0.05)
    assert made.read("model.norm.weight").mean() == pytest.approx(1, abs=0.02)


def test_a_sparse_one_takes_no_room(tmp_path: Path) -> None:
    config = bench.SIZES["7b"]
    folder = bench.checkpoint(tmp_path / "model", config, random=False)
    stat = (folder / "model.safetensors").stat()
    assert stat.st_size > 15 * 10**9
    assert stat.st_blocks * 512 < 2**20
    assert not np.any(Checkpoint(folder).read("model.layers.27.self_attn.k_proj.weight"))


@pytest.mark.slow
def test_the_exporters_memory_is_bounded_and_does_not_grow_with_the_layers(tmp_path: Path) -> None:
    found = []
    for layers in (1, 3):
        config = {**bench.SIZES["0.5b"], "vocab_size": 4096, "num_hidden_layers": layers}
        model = bench.checkpoint(tmp_path / f"{layers}", config, random=False)
        (tmp_path / f"work{layers}").mkdir()
        most, bound = bench.export(model, config, tmp_path / f"work{layers}")
        assert most <= bound
        found.append(most)
    assert found[1] <= found[0] * 1.02


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "--beside"), "--beside: llm_convert has no"),
        (("plan", "--mode", "bf16"), "--mode: bench plan knows one mode"),
        (("build", "--layers", "0"), '--layers: "0" is no number'),
    ],
)
def test_what_cannot_be_is_one_line(words: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "cli.main", "bench", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
