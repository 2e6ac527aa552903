"""A template stands for a layer only where the compiler left the weights as they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compile import rebind

HEAD = 'module @block attributes {module.FLOPs = 1 : i64, module.weight_file = "own.npz"} {'
MLIR = f'#loc = loc(unknown)\n{HEAD}\n  %4 = "top.Weight"() : () -> tensor<4xf32> loc("block")\n}}\n'
WEIGHTS = {"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 3), np.float32)}


@pytest.fixture
def layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Layer 0 in ../bind.0 and what model_transform made of it in the current folder, `template`."""
    for name in ("bind.0", "bind.1", "template", "net"):
        (tmp_path / name).mkdir()
    for number in (0, 1):
        np.savez(tmp_path / f"bind.{number}" / "weights.npz", **{k: v + number for k, v in WEIGHTS.items()})
        (tmp_path / f"bind.{number}" / "block.onnx").write_bytes(b"graph")
    (tmp_path / "template" / "block.mlir").write_text(MLIR)
    np.savez(tmp_path / "template" / "own.npz", **WEIGHTS)
    monkeypatch.chdir(tmp_path / "template")
    return tmp_path


def seal() -> None:
    assert rebind.main(["seal", "block", "../bind.0/block.onnx", "../bind.0/weights.npz"]) == 0


def bind(layer: Path, monkeypatch: pytest.MonkeyPatch, *command: str) -> int:
    monkeypatch.chdir(layer / "net")
    words = ["../template", "../bind.1/block.onnx", "../bind.1/weights.npz", "block_1", "--", *(command or ("false",))]
    return rebind.main(["bind", *words])


def test_a_layer_gets_the_template_naming_its_own_weights(layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal()
    assert not Path("own.npz").exists()
    assert bind(layer, monkeypatch) == 0
    expected = MLIR.replace("@block ", "@block_1 ").replace("own.npz", "../bind.1/weights.npz")
    assert Path("block_1.mlir").read_text() == expected


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"a": WEIGHTS["a"]}, "b is in weights.npz only"),
        ({**WEIGHTS, "c": WEIGHTS["a"]}, "c is in own.npz only"),
        ({**WEIGHTS, "b": WEIGHTS["b"] * 2}, "b was changed"),
        ({**WEIGHTS, "b": WEIGHTS["b"].astype(np.float16)}, "b was changed"),
        ({**WEIGHTS, "b": WEIGHTS["b"].T}, "b was changed"),
    ],
)
def test_what_the_compiler_touched_is_transformed_layer_by_layer(
    layer: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    own: dict[str, object],
    reason: str,
) -> None:
    np.savez("own.npz", **own)  # type: ignore[arg-type]
    seal()
    assert reason in capsys.readouterr().out
    assert bind(layer, monkeypatch, "sh", "-c", "touch done; exit 7") == 7
    assert Path("done").exists()
    assert f"block_1: transformed by itself: {reason}" in capsys.readouterr().out


def test_another_graph_is_transformed_by_itself(layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal()
    (layer / "bind.1" / "block.onnx").write_bytes(b"other")
    assert bind(layer, monkeypatch, "touch", "done") == 0
    assert Path("done").exists()
    assert not Path("block_1.mlir").exists()


def test_what_is_no_top_mlir_is_refused(layer: Path) -> None:
    Path("block.mlir").write_text("module {}")
    with pytest.raises(SystemExit, match="names no weight file"):
        seal()


def test_a_wrong_call_says_how_to_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert rebind.main(["bind", "a", "b"]) == 2
    assert "bind TEMPLATE_DIR ONNX WEIGHTS NAME" in capsys.readouterr().err


def table_graph(path: Path, rows: int, width: int) -> None:
    """lm_head's: a table as external data, and `rows` numbers out."""
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[width, rows])
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value="weights.npz")
    given, made = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, d]) for n, d in (("x", width), ("y", rows)))
    node = helper.make_node("MatMul", ["x", "table"], ["y"])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [given], [made], [table])), path)


@pytest.mark.parametrize(("rows", "width", "small"), [(5000, 16, rebind.STAND_IN), (16, 16, 16), (5000, 1009, 5000)])
def test_a_table_gives_way_to_a_small_one_where_its_size_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, width: int, small: int
) -> None:
    monkeypatch.chdir(tmp_path)
    table_graph(tmp_path / "lm_head.onnx", rows, width)
    assert rebind.main(["shrink", "lm_head.onnx", str(rows)]) == 0
    model = onnx.load("small.onnx")
    onnx.checker.check_model(model)
    assert list(model.graph.initializer[0].dims) == [width, small]
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == small
    assert json.loads(Path("small.json").read_text()) == [small, rows]
    with np.load("small.npz") as arrays:
        assert np.array_equal(arrays["table"], numpy_helper.to_array(model.graph.initializer[0]))


def test_the_real_size_goes_into_types_only() -> None:
    text = 'FLOPs = 1009 : i64} loc("a1009") %1009 : tensor<16x1009xf32>, tensor<1009xi32>, tensor<1x11009xf32>'
    assert rebind.grow(text.replace("FLOPs = 1009", ""), 1009, 7)[1].startswith("1009 stands for something else")
    text = text.replace("%1009", "%9").replace("FLOPs = 1009", "FLOPs = 10090").replace("a1009", "b")
    grown = text.replace("16x1009x", "16x7x").replace("<1009x", "<7x")
    assert rebind.grow(text, 1009, 7) == (grown, "")
    assert rebind.grow(text, 7, 7) == (text, "")
