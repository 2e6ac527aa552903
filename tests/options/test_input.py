"""INPUT: prefill nets for fewer positions than the sequence has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contract import graphs
from contract.errors import UserError
from contract.graphs import Geometry
from runtime.engine import Engine
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import hf2bmodel, manifest
from tests.options.conftest import Checkpoint, Made
from tests.options.conversations import CHIP, answer, assert_same, ids, session
from tests.runtime.conftest import bmodel_in

SEQ, INPUT = 96, 32
BF16 = ("--mode", "bf16", "--input-length", str(INPUT))


@pytest.mark.toolchain
@pytest.mark.parametrize("name", ["qwen2", "llama", "gemma2", "minicpm3"])
def test_it_climbs_the_ladder(name: str, made: Made, checkpoint: Checkpoint) -> None:
    folder = made(checkpoint(name), *BF16)
    assert manifest(folder)["status"] == "verified"
    assert folder.name.endswith(f"_in{INPUT}")
    assert manifest(folder)["geometry"]["input_length"] == INPUT


@pytest.mark.toolchain
def test_prefill_is_shorter_and_decode_is_not(made: Made, checkpoint: Checkpoint) -> None:
    geometry = Geometry(2, 128, 1, 64, 64, 500, SEQ, input_length=INPUT)
    with Engine(bmodel_in(made(checkpoint("qwen2"), *BF16)), CHIP) as engine:
        assert set(engine.nets.values()) == set(graphs.decoder_graphs(geometry, top1=False))
    shapes = {net: {t.name: t.shape for t in spec.inputs} for net, spec in engine.nets.items()}
    assert shapes["embedding"]["input_ids"] == (1, 32)
    assert shapes["block_0"]["attention_mask"] == (1, 1, 32, 32)
    assert shapes["block_cache_0"]["attention_mask"] == (1, 1, 1, 97)
    whole, short = (manifest(made(checkpoint("qwen2"), *words)) for words in (("--mode", "bf16"), BF16))
    cycles = [of["nets"]["block_0"]["cycles"] for of in (whole, short)]
    print(f"block_0, cycles at SEQ 96: {cycles[0]}, with INPUT=32: {cycles[1]}")
    assert cycles[1] < cycles[0] * 0.6
    assert whole["nets"]["block_cache_0"]["cycles"] == short["nets"]["block_cache_0"]["cycles"]


@pytest.mark.toolchain
def test_its_shapes_are_llm_converts(
    made: Made,
    checkpoint: Checkpoint,
    convert: Made,
) -> None:
    vendors = convert(CHIP, "--max_input_length", "32", "--do_sample")
    ours = made(checkpoint("qwen2"), *BF16, "--seq-length", "64", "--verify", "none")
    with Engine(bmodel_in(vendors), CHIP) as theirs, Engine(bmodel_in(ours), CHIP) as own:
        assert set(own.nets.values()) == set(theirs.nets.values())


@pytest.mark.toolchain
@pytest.mark.parametrize("length", [1, 12, 32])
def test_tokens_are_those_of_a_build_without_it(length: int, made: Made, checkpoint: Checkpoint) -> None:
    prompt, forced = ids(length, seed=length), ids(6, seed=99)
    steps = []
    for words in (("--mode", "bf16"), BF16):
        with session(made(checkpoint("qwen2"), *words, "--verify", "none")) as opened:
            steps.append(answer(opened, opened.prefill(prompt), forced))
    assert_same(steps[1], steps[0])


@pytest.mark.toolchain
def test_the_whole_sequence_can_be_filled_behind_a_short_prompt(made: Made, checkpoint: Checkpoint) -> None:
    with session(made(checkpoint("qwen2"), *BF16, "--verify", "none")) as opened:
        assert (opened.prompt_length, opened.seq_length) == (INPUT, SEQ)
        opened.prefill(ids(INPUT))
        for token in ids(SEQ - INPUT):
            last = opened.decode(token)
        assert last.length == SEQ
        assert opened.full


@pytest.mark.toolchain
def test_a_longer_prompt_is_refused_in_one_line(
    talking_checkpoint: Path,
    tmp_path: Path,
) -> None:
    recipe = tmp_path / "talking.yaml"
    recipe.write_text(
        "name: talking\narchitecture: qwen2\nsource: {hub: someone/tiny}\nseq_length: 96\nmode: bf16\n"
        'group_size: 32\noptions: {input_length: 16}\nprompt: "the quick"\n'
    )
    words = ("--model", str(talking_checkpoint), "--out", str(tmp_path), "--verify", "none")
    done = hf2bmodel("build", str(recipe), *words)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "talking_bf16_seq96_bm1684x_1dev"
    said = hf2bmodel("generate", str(folder), "--raw", "--prompt", "the lazy dog " * 9, "--max-new-tokens", "4")
    assert said.returncode == 2
    (line,) = said.stderr.strip().splitlines()
    assert "tokens; it takes 16; shorten it or build with a larger input length, or with HISTORY=1" in line
    short = hf2bmodel("generate", str(folder), "--raw", "--prompt", "the", "--max-new-tokens", "4", "--json")
    assert short.returncode == 0, short.stderr
    assert len(json.loads(short.stdout)["tokens"]) == 4


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("qwen2.5-0.5b", {"input_length": 0}, '"0" is no positive whole number; give one, such as 64'),
        ("qwen2.5-0.5b", {"input_length": 513}, "513 positions are more than the sequence has; use 1 to 512"),
        (
            "phi-4-mini",
            {"input_length": 512, "seq_length": 8192},
            "beyond 4096 positions the model's rope changes, and all of a conversation must be prefilled anew; "
            "use 4097 or more, or --history",
        ),
    ],
)
def test_what_cannot_be_is_refused(recipe: str, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_plan(recipe, **changes)
    assert str(error.value) == f"--input-length: {message}"
