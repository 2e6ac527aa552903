"""The tower's inputs beside those of the vendor's converters, which write their net's MLIR before they compile it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compile import toolchain
from contract import graphs, towers
from exporters import spec as specs
from tests import remote_vision, vision_models

pytestmark = [
    pytest.mark.toolchain,
    pytest.mark.skipif(shutil.which("parallel") is None, reason="llm_convert needs GNU parallel: apt install parallel"),
]
INPUT = re.compile(r'"top\.Input"\((%arg\d+)\).*loc\((#loc\d+)\)')
TYPES = {"f32": "float32", "si32": "int32"}
# What their code takes for granted: heads of 80 in the tower, and a key of older files.
QWEN = {"vision_config": {"hidden_size": 160, "in_chans": 3}}
# It looks for the decoder's settings where the first published files have them, beside the tower's.
GLM = {
    **{"hidden_size": 128, "num_attention_heads": 2, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5},
    **{"hidden_act": "silu", "rope_scaling": {"mrope_section": [4, 6, 6]}},
}
# What it asks config.json for and the published one leaves to its class; it knows no tower without its last layer.
MINICPM = remote_vision.MINICPM["vision_config"] | {
    "layer_norm_eps": 1e-6,
    "num_channels": 3,
    "hidden_act": "gelu_pytorch_tanh",
}
CASES = {
    "qwen2_vl": ({"vision_config": {"embed_dim": 160, "in_chans": 3}}, (84, 56)),
    "qwen2_5_vl": (QWEN, (84, 56)),
    "qwen3_vl": ({}, (96, 64)),
    "glm4v": (GLM, (112, 168)),
    "minicpmv": ({"vision_config": MINICPM, "drop_vision_last_layer": False}, (112, 140)),
}
Converted = Callable[[str], tuple[Path, Path]]


@pytest.fixture
def converted(tmp_path: Path) -> Converted:
    """Checkpoint and MLIR of the tower, by the vendor."""

    def run(name: str) -> tuple[Path, Path]:
        changes, size = CASES[name]
        if name in remote_vision.CASES:
            folder = remote_vision.make(name, tmp_path / "checkpoint", **changes)
        else:
            folder = vision_models.make(name, tmp_path / "checkpoint", "bfloat16", **changes)
        environment = toolchain.find().runner.environment()
        tool = shutil.which("llm_convert.py", path=environment["PATH"])
        assert tool
        words = ["-m", str(folder), "-s", "96", "-q", "bf16", "-c", "bm1684x", "-o", str(tmp_path / "out")]
        pixels = ["--max_pixels", ",".join(map(str, size)), "--only_mlir"]
        private = {"PPL_CACHE_PATH": str(tmp_path), "OMP_NUM_THREADS": "1", "LLM_GEN_MLIR_WORKERS": "1"}
        done = subprocess.run(
            [tool, *words, *pixels],
            cwd=tmp_path,
            env=environment | private,
            capture_output=True,
            text=True,
            check=False,
        )
        # The tower's file comes first; with decoders as small as these it may end there.
        mlir = next((tmp_path / "out").glob("*/vit/vit.mlir"), None)
        assert mlir, done.stdout + done.stderr
        return folder, mlir

    return run


def tensors(mlir: str) -> tuple[list[graphs.TensorSpec], list[tuple[int, ...]]]:
    """Inputs in order, and the outputs' shapes."""
    signature = re.search(r"func\.func @main\((.*)\) -> (.*) \{", mlir)
    assert signature
    given = dict(re.findall(r"(%arg\d+): tensor<([^>]*)>", signature[1]))
    names = dict(re.findall(r'^(#loc\d+) = loc\("([^"]*)"\)', mlir, re.MULTILINE))
    inputs = []
    for argument, place in INPUT.findall(mlir):
        *shape, dtype = given[argument].split("x")
        inputs.append(graphs.TensorSpec(names[place], tuple(map(int, shape)), TYPES[dtype]))
    outputs = [tuple(map(int, found.split("x")[:-1])) for found in re.findall(r"tensor<([^>]*)>", signature[2])]
    return inputs, outputs


@pytest.mark.parametrize("name", CASES)
def test_the_towers_tensors_are_llm_converts(name: str, converted: Converted) -> None:
    folder, mlir = converted(name)
    inputs, outputs = tensors(mlir.read_text(encoding="utf-8"))
    vision = specs.read(folder).vision
    assert vision
    net = towers.vit(vision.geometry(CASES[name][1])).as_onnx()
    assert list(net.inputs) == inputs
    assert [t.shape for t in net.outputs] == outputs
