"""Beside the vendor's own converter: the same nets, shapes and dtypes from the same checkpoint, in fewer cycles."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compile import toolchain
from tests import tiny
from tests.end_to_end.test_line import RECIPE, Build, build, hf2bmodel, manifest  # noqa: F401  (build is a fixture)

QWEN_HALF_BILLION = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "max_position_embeddings": 512,
}

pytestmark = [
    pytest.mark.toolchain,
    pytest.mark.skipif(shutil.which("parallel") is None, reason="llm_convert needs GNU parallel: apt install parallel"),
]
Nets = dict[str, list[tuple[str, str, str]]]
Tool = Callable[..., str]


@pytest.fixture(scope="module")
def tool() -> Tool:
    runner = toolchain.find().runner

    def run(*command: str, cwd: Path) -> str:
        env = {**runner.environment(), "OMP_NUM_THREADS": "1"}
        path = shutil.which(command[0], path=env["PATH"])
        assert path
        done = subprocess.run([path, *command[1:]], cwd=cwd, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def nets_of(bmodel: Path, tool: Tool) -> Nets:
    """Per net its tensors: an input's name (an output's is internal), shape and dtype."""
    found: Nets = {}
    for part in re.split(
        r"^net \d+: ", tool("model_tool", "--info", str(bmodel), cwd=bmodel.parent), flags=re.MULTILINE
    )[1:]:
        name = re.match(r"\[(\w+)\]", part)
        assert name
        tensors = re.findall(r"^(input|output): (\S+), (\[[^\]]*\]), (\w+)", part, re.MULTILINE)
        found[name[1]] = [(n if kind == "input" else "", shape, dtype) for kind, n, shape, dtype in tensors]
    return found


@pytest.mark.parametrize("head", ["--no-sample", "--sample"])
def test_nets_shapes_and_dtypes_are_llm_converts(
    head: str,
    build: Build,  # noqa: F811
    checkpoint: Callable[[str], Path],
    tool: Tool,
    tmp_path: Path,
) -> None:
    folder, _ = build("qwen2", "--mode", "bf16", head, "--verify", "none")
    options = ["-s", "96", "-q", "bf16", "-c", "bm1684x", "-o", str(tmp_path)]
    sample = ["--do_sample"] if head == "--sample" else []
    tool("llm_convert.py", "-m", str(checkpoint("qwen2")), *options, *sample, cwd=tmp_path)
    (theirs,) = tmp_path.glob("*.bmodel")
    ours = nets_of(folder / manifest(folder)["bmodel"], tool)
    assert ours == nets_of(theirs, tool)
    # Weights are equal; 5 % is for instructions, which differ with the form of the graph.
    assert os.path.getsize(folder / manifest(folder)["bmodel"]) <= 1.05 * os.path.getsize(theirs)


def test_blocks_of_a_real_size_take_fewer_cycles_than_llm_converts(tool: Tool, tmp_path: Path) -> None:
    """One layer at Qwen2.5-0.5B's sizes, int4, 512 positions."""
    folder = tiny.make("qwen2", tmp_path / "model", **QWEN_HALF_BILLION)
    (tmp_path / "big.yaml").write_text(RECIPE.format(architecture="qwen2").replace("group_size: 32", "group_size: 64"))
    words = ["--model", str(folder), "--seq-length", "512", "--verify", "none", "--out", str(tmp_path / "ours")]
    done = hf2bmodel("build", str(tmp_path / "big.yaml"), *words)
    assert done.returncode == 0, done.stderr
    (ours,) = (tmp_path / "ours").glob("tiny_*")  # beside the shared steps
    options = ["-s", "512", "-q", "w4bf16", "-g", "64", "-c", "bm1684x", "-o", str(tmp_path / "theirs")]
    tool("llm_convert.py", "-m", str(folder), *options, cwd=tmp_path)
    for name in ("block_0", "block_cache_0"):
        (profile,) = (tmp_path / "theirs").glob(f"*/{name}/compiler_profile_0.txt")
        (theirs,) = re.findall(r"^TCYC : (\d+)", profile.read_text(errors="replace"), re.MULTILINE)
        assert manifest(ours)["nets"][name]["cycles"] < int(theirs), name
