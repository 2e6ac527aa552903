"""Checkpoint to ONNX: the contract's tensors, opset, shared weights, and parity with Hugging Face."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.torch import load_file, save_file

from contract import graphs
from contract.errors import UserError
from contract.ladder import ONNX, PATCHED, first_failure
from exporters import spec, weights
from exporters.bind import bind
from exporters.checkpoint import Checkpoint
from exporters.model import Decoder
from exporters.parity import climb
from exporters.trace import OPSET, trace_decoder
from tests import tiny

SEQ = 96
QUICK = ("llama", "gpt_bigcode")
ONNX_TYPES = {"tensor(float)": graphs.FLOAT32, "tensor(int32)": graphs.INT32, "tensor(int64)": graphs.INT32}


def export(
    folder: Path, out: Path, top1: str | None, devices: int = 1, trust: bool = False, **forms: int | bool
) -> None:
    """All steps of the exporter, laid out as a build lays them out. `forms`: trace_decoder's."""
    (out / "trace").mkdir(parents=True)
    trace_decoder(Decoder(folder, devices, trust), SEQ, top1, out / "trace", **forms)
    layers = spec.read(folder).layers
    for group in ("embedding", "head", *(f"layer_{i}" for i in range(layers))):
        (out / f"bind.{group}").mkdir()
        bind(Checkpoint(folder), out / "trace", group, out / f"bind.{group}")


@pytest.mark.parametrize(
    ("name", "top1", "devices"),
    [pytest.param(name, None, 1, marks=() if name in QUICK else pytest.mark.slow) for name in tiny.CASES]
    + [
        ("qwen2", "topk", 2),
        *(pytest.param("llama", *form, marks=pytest.mark.slow) for form in (("argmax", 1), (None, 2))),
    ],
)
def test_nets_keep_the_contract_and_agree_with_hugging_face(
    name: str, top1: str | None, devices: int, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = checkpoint(name)
    export(folder, tmp_path, top1, devices)
    nets = graphs.decoder_graphs(spec.read(folder).geometry(SEQ), top1 is not None)
    files = {path.stem: path for path in tmp_path.glob("bind.*/*.onnx")}
    assert sorted(files) == sorted(net.name for net in nets)
    for net in nets:
        assert_contract(net, files[net.name])
    # Dynamic rope is right at the built length: prompt and forced tokens fill it.
    positions = SEQ - 15 if "dynamic" in name else 64
    scores = climb(Decoder(folder, devices), tmp_path, SEQ, "Hello", positions, tmp_path)
    assert first_failure(scores) is None
    assert {s.net for s in scores if s.rung == ONNX} >= {n.name for n in nets} - {"embedding_cache"}
    heads = 0 if top1 else 2
    assert sum(s.rung == PATCHED for s in scores) == 2 + 2 * spec.read(folder).layers + heads
    assert sorted(p.stem for p in (tmp_path / "reference").glob("*.npz")) == sorted(files)


def assert_contract(net: graphs.GraphSpec, path: Path) -> None:
    opset = onnx.load(path, load_external_data=False).opset_import[0].version
    assert opset == OPSET
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wide = net.as_onnx()
    for wanted, found in ((wide.inputs, session.get_inputs()), (wide.outputs, session.get_outputs())):
        assert [(t.name, list(t.shape), t.dtype) for t in wanted] == [
            (f.name, f.shape, ONNX_TYPES[f.type]) for f in found
        ]


def test_layers_share_a_trace_and_prefill_and_decode_share_weights(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = checkpoint("llama")
    export(folder, tmp_path, "argmax")
    assert len(list((tmp_path / "trace").glob("block*.onnx"))) == 2
    assert (tmp_path / "bind.layer_0/block_0.onnx").read_bytes() == (
        tmp_path / "bind.layer_1/block_1.onnx"
    ).read_bytes()
    with np.load(tmp_path / "bind.layer_1" / weights.NAME) as archive:
        fused = archive["layer.self_attn.qkv.weight"]
    checkpoint_ = Checkpoint(folder)
    parts = [checkpoint_.read(f"model.layers.1.self_attn.{p}_proj.weight") for p in "qkv"]
    np.testing.assert_array_equal(fused, np.concatenate(parts).T)


def test_offsets_foretell_where_the_bytes_lie(tmp_path: Path) -> None:
    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(1000, np.float32)}
    weights.write(arrays.items(), tmp_path / weights.NAME)
    raw = (tmp_path / weights.NAME).read_bytes()
    for name, offset in weights.offsets({k: v.shape for k, v in arrays.items()}).items():
        assert raw[offset : offset + arrays[name].nbytes] == arrays[name].tobytes()


def test_a_wrong_shape_and_a_nan_are_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "copy")
    (tmp_path / "trace").mkdir()
    trace_decoder(Decoder(folder), SEQ, "argmax", tmp_path / "trace")
    tensors = load_file(folder / "model.safetensors")
    for value, complaint in (
        (tensors["model.norm.weight"] * float("nan"), r"model\.norm\.weight holds NaN or infinity"),
        (tensors["model.norm.weight"][:-1].clone(), r"model\.norm\.weight has shape \[127\], config\.json asks"),
    ):
        save_file(tensors | {"model.norm.weight": value}, folder / "model.safetensors")
        with pytest.raises(UserError, match=complaint):
            bind(Checkpoint(folder), tmp_path / "trace", "head", tmp_path)


def test_the_ladder_names_the_layer_where_an_error_enters(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give layer 1 the weights of layer 0 in its ONNX: the onnx rung must point there."""
    folder = checkpoint("qwen2")
    export(folder, tmp_path, "argmax")

    def swapped(source: Checkpoint, skeletons: Path, group: str, out: Path) -> None:
        bind(source, skeletons, group, out)
        if group == "layer_1":
            shutil.copy(tmp_path / "bind.layer_0" / weights.NAME, out / weights.NAME)

    monkeypatch.setattr("exporters.bind.bind", swapped)
    failure = first_failure(climb(Decoder(folder), tmp_path, SEQ, "Hello", 64, tmp_path))
    assert failure is not None
    assert (failure.rung, failure.layer) == (ONNX, 1)
