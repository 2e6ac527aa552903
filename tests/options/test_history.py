"""HISTORY: prefill in chunks over what is cached already (block_kv): a second turn costs its new tokens only."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contract import graphs
from contract.graphs import Geometry, TensorSpec
from contract.ladder import ONNX, PATCHED, first_failure
from exporters import spec
from exporters.model import Decoder
from exporters.parity import climb
from runtime.engine import Engine
from tests import remote_models
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import ROOT, manifest
from tests.exporters.test_export import assert_contract, export
from tests.options.conftest import Checkpoint, Made
from tests.options.conversations import CHIP, answer, assert_same, ids, session
from tests.runtime.conftest import bmodel_in

SEQ, CHUNK = 96, 16
PLAIN = ("--mode", "bf16")
BF16 = (*PLAIN, "--history", "--input-length", str(CHUNK))
QUIET = ("--verify", "none")


# Windows, latent caches, experts, learned positions, rope by length, parallel attention, ALiBi, pairs of channels.
LOCAL = ("gemma2", "minicpm3", "deepseek_v2", "gpt_bigcode", "llama-dynamic", "phi3-longrope", "falcon-40b")
REMOTE = ("baichuan-13b", "chatglm3")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LOCAL, *REMOTE])
def test_its_nets_agree_with_hugging_face(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    remote = name in REMOTE
    folder = remote_models.make(name, tmp_path / "model") if remote else checkpoint(name)
    # Rope of some models depends on the length of the sequence: there, prompt and forced tokens fill it.
    positions, forms = SEQ - 15, {"input_length": 6, "history": True}
    export(folder, tmp_path, None, trust=remote, **forms)
    geometry = replace(spec.read(folder).geometry(SEQ), input_length=6)
    nets = graphs.decoder_graphs(geometry, False, history=True)
    files = {path.stem: path for path in tmp_path.glob("bind.*/*.onnx")}
    assert sorted(files) == sorted(net.name for net in nets)
    for net in nets:
        assert_contract(net, files[net.name])
    scores = climb(Decoder(folder, trust=remote), tmp_path, SEQ, "Hello", positions, tmp_path, **forms)
    assert first_failure(scores) is None
    for rung in (PATCHED, ONNX):
        assert {"block_kv_0", "block_kv_1"} <= {s.net for s in scores if s.rung == rung}
    assert sorted(p.stem for p in (tmp_path / "reference").glob("*.npz")) == sorted(files)


@pytest.mark.toolchain
@pytest.mark.parametrize("name", ["qwen2", "llama", "gemma2", "minicpm3"])
def test_it_climbs_the_ladder(name: str, checkpoint: Checkpoint, made: Made) -> None:
    done = manifest(made(checkpoint(name), *BF16))
    assert done["status"] == "verified", done["reason"]
    rungs = {s["rung"] for s in done["parity"] if s["net"] == "block_kv_1"}
    assert rungs == {"patched", "onnx", "chip"}


@pytest.mark.toolchain
@pytest.mark.parametrize("length", [16, 17, 50, 96])
def test_a_prompt_in_chunks_is_the_prompt_in_one(length: int, checkpoint: Checkpoint, made: Made) -> None:
    prompt, forced, steps = ids(length, seed=length), ids(min(4, SEQ - length), seed=99), []
    for words in (PLAIN, BF16):
        with session(made(checkpoint("qwen2"), *words, *QUIET)) as opened:
            steps.append(answer(opened, opened.prefill(prompt), forced))
    assert_same(steps[1], steps[0])


@pytest.mark.toolchain
@pytest.mark.parametrize("name", ["qwen2", "gemma2", "minicpm3"])
def test_a_second_turn_is_one_long_prompt(
    name: str, checkpoint: Checkpoint, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, said, second, forced = ids(20, seed=1), ids(5, seed=2), ids(31, seed=3), ids(4, seed=4)
    with session(made(checkpoint(name), *PLAIN, *QUIET)) as opened:
        wanted = answer(opened, opened.prefill([*first, *said, *second]), forced)
    with session(made(checkpoint(name), *BF16, *QUIET)) as opened:
        answer(opened, opened.prefill(first), said)
        computed: list[int] = []
        call = Engine.call

        def watched(self: Engine, name: str, *arguments: Any) -> Any:
            if name == "decoder" and arguments[0] == "extend":
                computed.extend(arguments[4])
            return call(self, name, *arguments)

        monkeypatch.setattr(Engine, "call", watched)
        found = answer(opened, opened.extend(second), forced)
        assert computed == second
        computed.clear()
        # A history that was cut in the middle: what is common stays.
        other = answer(opened, opened.resume([*first, *second]), forced)
        assert computed == second
        fresh = answer(opened, opened.prefill([*first, *second]), forced)
    assert_same(found, wanted)
    assert_same(other, fresh)


@pytest.mark.toolchain
def test_a_turn_may_fill_the_last_positions(checkpoint: Checkpoint, made: Made) -> None:
    """A chunk of which little is real lies beyond the sequence's end with the rest."""
    whole = ids(SEQ)
    with session(made(checkpoint("qwen2"), *PLAIN, *QUIET)) as opened:
        wanted = opened.prefill(whole)
    with session(made(checkpoint("qwen2"), *BF16, *QUIET)) as opened:
        opened.prefill(whole[:91])
        found = opened.extend(whole[91:])
        assert opened.full
        again = opened.prefill(whole)
    assert_same([found, again], [wanted, wanted])


@pytest.mark.toolchain
@pytest.mark.parametrize("mode", ["bf16", "int4"])
def test_its_nets_share_the_weights_of_the_layer(mode: str, checkpoint: Checkpoint, made: Made) -> None:
    sizes = {}
    for words in (("--input-length", str(CHUNK)), ("--input-length", str(CHUNK), "--history")):
        folder = made(checkpoint("qwen2"), "--mode", mode, *words, *QUIET)
        sizes[words] = bmodel_in(folder).stat().st_size, manifest(folder)["nets"]
    (without, _), (size, nets) = sizes.values()
    alone = nets["block_kv_0"]["bytes"] - nets["greedy_head"]["bytes"]  # less what every bmodel carries
    weights = spec.read(checkpoint("qwen2")).layer_parameters[0] * (2 if mode == "bf16" else 0.5)
    print(f"{mode}: bmodel {without} bytes, {size} with block_kv")
    assert alone > weights * 0.9
    assert size - without < weights


@pytest.mark.toolchain
def test_names_and_shapes_are_llm_converts(convert: Made, checkpoint: Checkpoint, made: Made) -> None:
    """The vendor's are dynamic, and so have the mask built in."""
    vendors = convert(CHIP, "--use_history_kv", "--chunk_length", "16", "--do_sample")
    ours = made(checkpoint("qwen2"), *PLAIN, "--history", "--seq-length", "64", *QUIET)
    with Engine(bmodel_in(vendors), CHIP) as theirs, Engine(bmodel_in(ours), CHIP) as own:
        assert set(own.nets) == set(theirs.nets)
        for name, net in own.nets.items():
            masked = {t.name for t in theirs.nets[name].inputs} | {"attention_mask"}
            assert theirs.nets[name].inputs == tuple(
                t for t in net.inputs if t.name in masked and _has(theirs.nets[name].inputs, t)
            )
            assert theirs.nets[name].outputs == net.outputs
    assert _has(own.nets["block_kv_0"].inputs, TensorSpec("attention_mask", (1, 1, 16, 80), "bfloat16"))
    assert not _has(theirs.nets["block_kv_0"].inputs, TensorSpec("attention_mask", (1, 1, 16, 80), "bfloat16"))


def _has(tensors: tuple[TensorSpec, ...], tensor: TensorSpec) -> bool:
    return tensor.name in {t.name for t in tensors}


@pytest.mark.toolchain
def test_llm_converts_own_bmodel_takes_its_second_turn(
    convert: Made, talking_checkpoint: Path, made: Made, tmp_path: Path
) -> None:
    first, second, forced = ids(20, seed=1), ids(23, seed=3), ids(3, seed=4)
    with session(convert(CHIP, "--use_history_kv", "--chunk_length", "16", "--do_sample")) as opened:
        assert opened.history
        opened.prefill(first)
        found = answer(opened, opened.extend(second), forced)
    with session(made(talking_checkpoint, *PLAIN, "--seq-length", "64", *QUIET)) as opened:
        wanted = answer(opened, opened.prefill([*first, *second]), forced)
    assert_same(found, wanted, 0.9995)  # the dynamic kernels round elsewhere


@pytest.mark.toolchain
def test_chat_answers_as_without_it(talking_checkpoint: Path, made: Made) -> None:
    """Two turns, the second behind the first; the prompt of the second is longer than a chunk."""
    answers = []
    for words in (PLAIN, BF16):
        folder = made(talking_checkpoint, *words, "--seq-length", "160", *QUIET)
        command = [sys.executable, "-m", "cli.main", "chat", str(folder), "--max-new-tokens", "8"]
        said = subprocess.run(
            command, cwd=ROOT, input="the dog\nthe fox\n/exit\n", capture_output=True, text=True, check=False
        )
        assert said.returncode == 0, said.stderr
        assert "hf2bmodel:" not in said.stderr
        answers.append(said.stdout)
    assert len(answers[0]) > len("> > > ")
    assert answers[1] == answers[0]


def test_a_quarter_of_the_sequence_is_a_chunk_where_nobody_says_more() -> None:
    shapes = {net.name: net for net in recipe_plan("qwen2.5-0.5b", history=True).nets}
    assert shapes["block_kv_0"].inputs[2] == TensorSpec("attention_mask", (1, 1, 128, 640), "bfloat16")
    assert shapes["embedding"].inputs[0].shape == (1, 128)
    own = {net.name: net for net in recipe_plan("qwen2.5-0.5b", history=True, input_length=64).nets}
    geometry = Geometry(24, 896, 2, 64, 64, 151936, 512, input_length=64)
    assert own["block_kv_23"] == graphs.block_kv(geometry, 23)


def test_every_net_of_a_layer_takes_its_mlir_from_one_transform() -> None:
    plan = recipe_plan("qwen2.5-0.5b", history=True)
    made = [s.name for s in plan.steps if s.commands[0][0] == "model_transform.py" and "transform" in s.name]
    assert made == ["transform.block.0", "transform.block_cache.0", "transform.block_kv.0"]
    assert plan.folder.name == "qwen2.5-0.5b_int4_seq512_bm1684x_1dev_history"
