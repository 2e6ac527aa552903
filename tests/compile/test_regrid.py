"""The levels of a quantised checkpoint, into a net's mlir and out of the compiler's hands unchanged."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from compile import deploy, toolchain
from compile.regrid import regrid
from contract import graphs
from exporters.trace import IR_VERSION, OPSET

Array = np.ndarray[Any, Any]
ROWS, CHANNELS, GROUP = 64, 128, 32
MLIR = """\
#loc = loc(unknown)
module @one attributes {module.weight_file = "own.npz"} {
  func.func @main(%arg0: tensor<1x8x128xf32>) -> tensor<1x8x64xf32> {
    %0 = "top.None"() : () -> none loc(#loc)
    %1 = "top.Weight"() : () -> tensor<128x64xf32> loc(#loc2)
    %2 = "top.MatMul"(%arg0, %1, %0) {do_relu = DO_RELU, right_transpose = false} : \
(tensor<1x8x128xf32>, tensor<128x64xf32>, none) -> tensor<1x8x64xf32> loc(#loc3)
    return %2 : tensor<1x8x64xf32> loc(#loc)
  } loc(#loc)
} loc(#loc)
#loc2 = loc("w")
#loc3 = loc("y")
"""


@pytest.fixture(scope="module")
def grid() -> dict[str, Array]:
    """Levels that leave the ends of their range out, any zero point, scales as checkpoints have them."""
    drawn = np.random.default_rng(0)
    groups = (ROWS, CHANNELS // GROUP)
    return {
        "levels": drawn.integers(3, 12, (ROWS, CHANNELS)).astype(np.uint8),
        "zeros": drawn.integers(0, 16, groups).astype(np.uint8),
        "scales": (0.01 + 0.02 * drawn.random(groups)).astype(np.float16).astype(np.float32),
    }


def floats(grid: dict[str, Array]) -> Array:
    """[K, N], as a net's weight file has it."""
    zeros, scales = (np.repeat(grid[part], GROUP, axis=1) for part in ("zeros", "scales"))
    return np.ascontiguousarray(((grid["levels"].astype(np.float32) - zeros) * scales).T)


def packed(levels: Array) -> Array:
    return levels[:, 0::2] | levels[:, 1::2] << 4


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: dict[str, Array]) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("grids.npz", **{"w.scales": grid["scales"], "w.zeros": grid["zeros"]})  # type: ignore[arg-type]
    np.savez("own.npz", w=floats(grid), other=np.ones(3, np.float32))
    Path("one.mlir").write_text(MLIR.replace("DO_RELU", "false"))
    return tmp_path


def test_the_mlir_takes_levels(here: Path, grid: dict[str, Array]) -> None:
    regrid("one", here / "grids.npz", 4, GROUP)
    text = Path("one.mlir").read_text()
    assert 'weight_file = "one_grid.npz"' in text
    assert '"top.A16MatMul"(%arg0, %1, %grid1_scales, %grid1_zeros, %0)' in text
    assert "tensor<64x64xui8>, tensor<64x4xf32>, tensor<64x4xui8>, none) -> tensor<1x8x64xf32> loc(#loc3)" in text
    with np.load("one_grid.npz") as held:
        assert set(held.files) == {"w.levels", "w.scales", "w.zeros", "other"}
        np.testing.assert_array_equal(held["w.levels"], packed(grid["levels"]))


def test_larger_groups_are_cut(here: Path, grid: dict[str, Array]) -> None:
    regrid("one", here / "grids.npz", 4, GROUP // 2)
    with np.load("one_grid.npz") as held:
        np.testing.assert_array_equal(held["w.scales"], np.repeat(grid["scales"], 2, axis=1))
    assert "q_group_size = 16" in Path("one.mlir").read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda value: value * np.float32(1.01), "w does not lie on the checkpoint's grid"),
        (lambda value: value + np.float32(1), "w does not lie on the checkpoint's grid"),
    ],
)
def test_floats_off_the_grid_stop_it(here: Path, grid: dict[str, Array], change: Any, told: str) -> None:
    np.savez("own.npz", w=change(floats(grid)))
    with pytest.raises(SystemExit, match=told):
        regrid("one", here / "grids.npz", 4, GROUP)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MLIR.replace("DO_RELU", "true"), "a matmul of a form that takes no grid"),
        (MLIR.replace("DO_RELU", "false").replace("return %2", "return %1"), "something else than a matmul"),
        (MLIR.replace("module.weight_file", "module.other"), "not a top mlir"),
    ],
)
def test_uses_that_have_no_grid_stop_it(here: Path, text: str, told: str) -> None:
    Path("one.mlir").write_text(text)
    with pytest.raises(SystemExit, match=told):
        regrid("one", here / "grids.npz", 4, GROUP)


@pytest.mark.toolchain
def test_the_compiler_keeps_them(here: Path, grid: dict[str, Array]) -> None:
    """Levels and zero points bit by bit, scales rounded to bfloat16, as the chip's weights say."""
    value = onnx.numpy_helper.from_array(floats(grid), "w")
    ends = [onnx.helper.make_tensor_value_info(n, 1, (1, 8, width)) for n, width in (("x", CHANNELS), ("y", ROWS))]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "one", *[[e] for e in ends], [value]
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION), "one.onnx")
    net = graphs.GraphSpec("one", graphs.BLOCK, 0, (), ())
    run = tool()
    run(*deploy.transform("one", "one.onnx"))
    regrid("one", here / "grids.npz", 4, GROUP)
    run(*deploy.deploy(net, "BF16", deploy.Target("bm1684x", 1, GROUP)))
    with np.load("one_tpu_addressed_bm1684x_bf16_weight.npz") as held:
        arrays = list(held.values())
    (scales,) = (a.view(ml_dtypes.bfloat16) for a in arrays if a.dtype == np.uint16)
    (zeros,) = (a for a in arrays if a.dtype == np.uint8 and a.size == grid["zeros"].size)
    (levels,) = (a for a in arrays if a.dtype == np.uint8 and a.size == grid["levels"].size // 2)
    np.testing.assert_array_equal(levels.reshape(ROWS, -1), packed(grid["levels"]))
    np.testing.assert_array_equal(zeros.reshape(ROWS, -1), grid["zeros"])
    np.testing.assert_array_equal(scales.reshape(ROWS, -1), grid["scales"].astype(ml_dtypes.bfloat16))


def tool() -> Callable[..., None]:
    runner = toolchain.find().runner

    def run(*command: str) -> None:
        env = runner.environment()
        path = shutil.which(command[0], path=env["PATH"])
        assert path
        done = subprocess.run([path, *command[1:]], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run
