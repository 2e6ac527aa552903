"""A template stands for a layer only where the compiler left the weights as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
