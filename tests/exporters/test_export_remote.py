"""Checkpoints that bring their own code, through the same export and the same rungs as transformers' own models."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
import torch

from contract import graphs
from contract.errors import UserError
from contract.ladder import ONNX, PATCHED, first_failure
from exporters import reference, spec
from exporters.model import Decoder
from exporters.parity import climb
from exporters.trace import trace_decoder
from tests import remote_models
from tests.exporters.test_export import SEQ, assert_contract, export

pytestmark = pytest.mark.slow

# Dynamic rope that acts: prompts of the tests have 16 tokens, and prompt and forced tokens fill the built length.
DYNAMIC = {"rope_scaling": {"type": "dynamic", "factor": SEQ / 8}, "max_position_embeddings": 8}
# A prompt shorter than training, whose NTK must not change when the answer grows longer.
TRAINED_LONGER = {"seq_length": 40}


@pytest.mark.parametrize(
    ("name", "config", "devices"),
    [
        *((name, {}, 1) for name in remote_models.CASES),
        ("internlm2", DYNAMIC, 1),
        ("qwen-hub", TRAINED_LONGER, 1),
        ("qwen-hub", {}, 2),
    ],
)
def test_nets_keep_the_contract_and_agree_with_the_checkpoints_own_code(
    name: str, config: dict, devices: int, tmp_path: Path
) -> None:
    folder = remote_models.make(name, tmp_path / "model", **config)
    export(folder, tmp_path, None, devices, trust=True)
    decoder = Decoder(folder, devices, trust=True)
    files = {path.stem: path for path in tmp_path.glob("bind.*/*.onnx")}
    nets = graphs.decoder_graphs(decoder.spec.geometry(SEQ), False)
    assert sorted(files) == sorted(net.name for net in nets)
    for net in nets:
        assert_contract(net, files[net.name])
    scores = climb(decoder, tmp_path, SEQ, "Hello", SEQ - 15, tmp_path)
    assert first_failure(scores) is None
    assert {s.net for s in scores if s.rung == ONNX} >= {n.name for n in nets} - {"embedding_cache"}
    assert sum(s.rung == PATCHED for s in scores) == 4 + 2 * decoder.spec.layers


def test_dynamic_rope_is_the_same_in_every_layer(tmp_path: Path) -> None:
    """The module of the checkpoint keeps the frequencies of the longest sequence it was asked for."""
    decoder = Decoder(remote_models.make("internlm2", tmp_path, **DYNAMIC), trust=True)
    first, second = decoder.rotary_tables(SEQ, 0), decoder.rotary_tables(SEQ, 1)
    assert first is not None
    assert second is not None
    assert torch.equal(first[0], second[0])
    trained = torch.outer(torch.arange(8.0), 1e6 ** -(torch.arange(0, 32, 2) / 32)).cos()
    assert torch.allclose(first[0][:8, :16], trained)
    assert not torch.allclose(first[0][SEQ : SEQ + 8, :16], trained, atol=1e-2)


def test_the_tables_of_a_prompt_go_on_beyond_its_regime(tmp_path: Path) -> None:
    """Alpha is 1, 3 and 7 for prompts of up to 40, 80 and 160 positions, at every position of the conversation."""
    decoder = Decoder(remote_models.make("qwen-hub", tmp_path, **TRAINED_LONGER), trust=True)
    assert decoder.spec.switches(SEQ) == (40, 80)
    tables = decoder.rotary_tables(SEQ, 0)
    assert tables is not None
    for number, alpha in enumerate((1, 3, 7)):
        base = 10000 * alpha ** (32 / 30)
        expected = torch.outer(torch.arange(float(SEQ)), base ** -(torch.arange(0, 32, 2) / 32)).sin()
        assert torch.allclose(tables[1][number * SEQ : (number + 1) * SEQ, :16], expected, atol=1e-4)


def test_q_is_stretched_only_where_a_build_is_longer_than_training(tmp_path: Path) -> None:
    decoder = Decoder(remote_models.make("qwen-hub", tmp_path, **TRAINED_LONGER), trust=True)
    assert decoder.stretch(40) is None
    stretch = decoder.stretch(81)
    assert stretch is not None
    assert stretch.shape == (3 * 81, 1)
    assert stretch[[0, 39, 81 + 39]].tolist() == [[1.0]] * 3
    assert stretch[[80, 161]].flatten().tolist() == pytest.approx([math.log(81) / math.log(40)] * 2)


@pytest.mark.parametrize(
    ("name", "alibi", "normalised"),
    [("baichuan-v1", False, False), ("baichuan-7b", False, True), ("baichuan-13b", True, True)],
)
def test_the_baichuan_models_are_told_apart(name: str, alibi: bool, normalised: bool, tmp_path: Path) -> None:
    decoder = Decoder(remote_models.make(name, tmp_path), trust=True)
    assert (decoder.spec.alibi, decoder.head_weight().normalised) == (alibi, normalised)
    assert decoder.spec.max_positions == 256


@pytest.mark.parametrize(("name", "first"), [("baichuan-7b", "Mul"), ("baichuan-13b", "Add")])
def test_masks_of_each_head_are_kept_from_the_fused_attention(name: str, first: str, tmp_path: Path) -> None:
    """The compiler makes one operation of scores + mask, and gives all heads the mask of the first."""
    (tmp_path / "trace").mkdir()
    decoder = Decoder(remote_models.make(name, tmp_path / "model"), trust=True)
    trace_decoder(decoder, SEQ, None, tmp_path / "trace")
    for net in ("block.0", "block_cache.0"):
        nodes = onnx.load(tmp_path / "trace" / f"{net}.onnx", load_external_data=False).graph.node
        made = {output: node for node in nodes for output in node.output}
        (softmax,) = (node for node in nodes if node.op_type == "Softmax")
        summed = made[softmax.input[0]]
        assert summed.op_type == "Add"
        assert made[summed.input[0]].op_type == first


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"position_encoding_2d": True}, "the first ChatGLM"),
        ({"multi_query_attention": False}, "multi_query_attention"),
    ],
)
def test_other_chatglms_are_refused(change: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        spec.from_config("chatglm", remote_models.CHATGLM | change, "config.json")


def test_a_decoder_is_refused_code_without_the_users_word(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="brings its own code"):
        Decoder(remote_models.make("glm4-chat", tmp_path))


def test_a_model_larger_than_memory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    decoder = Decoder(remote_models.make("glm4-chat", tmp_path), trust=True)
    monkeypatch.setattr(reference.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(UserError, match="GB of memory in float32"):
        reference.run(tmp_path, decoder.architecture, decoder.spec, "Hello", 8, SEQ)
