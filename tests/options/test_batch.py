"""BATCH: several conversations in one decode step, each as if it were alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract import graphs
from contract.errors import UserError
from contract.graphs import Geometry
from contract.ladder import ONNX, PATCHED, first_failure
from exporters import spec
from exporters.model import Decoder
from exporters.parity import climb
from runtime.batch import Batch
from runtime.engine import Engine
from runtime.nets import sizes
from runtime.session import Step
from tests import remote_models
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import hf2bmodel, manifest
from tests.exporters.test_export import assert_contract, export
from tests.options.conftest import Checkpoint, Made
from tests.options.conversations import CHIP, answer, assert_same, ids, session
from tests.runtime.conftest import bmodel_in

SEQ = 96
BF16 = ("--mode", "bf16", "--batch", "3")
QUIET = ("--verify", "none")
# Each in a seat of its own: the prompt's length, tokens behind it, and steps of the others before it joins.
VISITS = {0: (30, 9, 0), 1: (3, 8, 2), 2: (17, 4, 5)}


@pytest.mark.toolchain
def test_it_climbs_the_ladder(made: Made, checkpoint: Checkpoint) -> None:
    folder = made(checkpoint("qwen2"), *BF16)
    done = manifest(folder)
    assert done["status"] == "verified", done["reason"]
    assert folder.name.endswith("_b3")


@pytest.mark.toolchain
def test_each_is_as_if_it_were_alone(made: Made, checkpoint: Checkpoint) -> None:
    folder = made(checkpoint("qwen2"), *BF16)
    geometry = Geometry(2, 128, 1, 64, 64, 500, SEQ, batch=3)
    prompts = {seat: ids(length, seed=seat) for seat, (length, _, _) in VISITS.items()}
    forced = {seat: ids(count, seed=50 + seat) for seat, (_, count, _) in VISITS.items()}
    with Engine(bmodel_in(folder), CHIP) as engine, engine.batch() as batch:
        assert set(engine.nets.values()) == set(graphs.decoder_graphs(geometry, top1=False))
        together = visits(batch, prompts, forced)
        alone = {}
        for seat in VISITS:  # the others idle, and in another seat than before
            opened = batch.seats[(seat + 1) % 3]
            alone[seat] = answer(opened, opened.prefill(prompts[seat]), forced[seat])
    for seat, steps in together.items():
        assert_same(steps, alone[seat])
        assert all(np.array_equal(a.logits, b.logits) for a, b in zip(steps, alone[seat], strict=True))
    with session(made(checkpoint("qwen2"), *BF16[:2], *QUIET)) as opened:
        for seat, steps in together.items():
            assert_same(steps, answer(opened, opened.prefill(prompts[seat]), forced[seat]))


def visits(batch: Batch, prompts: dict[int, list[int]], forced: dict[int, list[int]]) -> dict[int, list[Step]]:
    """All of VISITS at once: who has joined and is not done takes part in each step."""
    found: dict[int, list[Step]] = {seat: [] for seat in VISITS}
    for round_ in range(max(late + count for _, count, late in VISITS.values())):
        for seat, (_, _, late) in VISITS.items():
            if round_ == late:
                found[seat].append(batch.seats[seat].prefill(prompts[seat]))
        sitting = [seat for seat in VISITS if 0 < len(found[seat]) <= len(forced[seat])]
        for seat, step in batch.decode({seat: forced[seat][len(found[seat]) - 1] for seat in sitting}).items():
            found[seat].append(step)
    return found


@pytest.mark.toolchain
def test_a_full_seat_and_an_empty_one_are_told_and_change_nothing(made: Made, checkpoint: Checkpoint) -> None:
    folder = made(checkpoint("qwen2"), *BF16)
    with Engine(bmodel_in(folder), CHIP) as engine, engine.batch() as batch, engine.session() as other:
        batch.seats[0].prefill(ids(SEQ))
        first = batch.seats[1].prefill(ids(5))
        with pytest.raises(UserError, match="all 96 positions are in use"):
            batch.decode({0: 1, 1: 1})
        with pytest.raises(ValueError, match="prefill before decode"):
            batch.decode({1: 1, 2: 1})
        assert batch.decode({1: first.token})[1].length == 6
        assert other.prefill(ids(5)).token == first.token


@pytest.mark.toolchain
def test_cycles_of_a_token_fall(made: Made, checkpoint: Checkpoint) -> None:
    one, three = (manifest(made(checkpoint("qwen2"), *words, *QUIET)) for words in (BF16[:2], BF16))
    assert one["nets"]["block_0"]["cycles"] == three["nets"]["block_0"]["cycles"]
    for net in ("block_cache_0", "lm_head"):
        cycles = [of["nets"][net]["cycles"] for of in (one, three)]
        print(f"{net}: {cycles[0]} cycles, for three {cycles[1]}")
        assert cycles[1] < 3 * cycles[0]


@pytest.mark.toolchain
def test_prompts_side_by_side_are_answered_as_alone(made: Made, talking_checkpoint: Path) -> None:
    folder = made(talking_checkpoint, *BF16[:3], "2", "--no-sample", "--dynamic", *QUIET)
    prompts = ("the quick brown", "fox", "jumps over the lazy dog and")  # one more than there are seats
    said = ("generate", str(folder), "--raw", "--json", "--max-new-tokens", "6")
    both = hf2bmodel(*said, *(word for prompt in prompts for word in ("--prompt", prompt)))
    assert both.returncode == 0, both.stderr
    found = [json.loads(line) for line in both.stdout.splitlines()]
    assert len(found) == 3
    for prompt, result in ((prompts[0], found[0]), (prompts[2], found[2])):
        alone = json.loads(hf2bmodel(*said, "--prompt", prompt).stdout)
        for key in ("text", "tokens", "prompt_tokens", "finish_reason"):
            assert result[key] == alone[key]


# Windows; latent caches, experts; ALiBi.
@pytest.mark.parametrize(
    "name", ["gemma2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("deepseek_v2", "baichuan-13b"))]
)
def test_its_nets_agree_with_hugging_face(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    remote = name in remote_models.CASES
    folder = remote_models.make(name, tmp_path / "model") if remote else checkpoint(name)
    export(folder, tmp_path, None, trust=remote, batch=3)
    geometry = replace(spec.read(folder).geometry(SEQ), batch=3)
    for net in graphs.decoder_graphs(geometry, False):
        (path,) = tmp_path.glob(f"bind.*/{net.name}.onnx")
        assert_contract(net, path)
    scores = climb(Decoder(folder, trust=remote), tmp_path, SEQ, "Hello", 20, tmp_path, batch=3)
    assert first_failure(scores) is None
    for rung in (PATCHED, ONNX):
        assert {"block_cache_0", "block_cache_1"} <= {s.net for s in scores if s.rung == rung}


def test_nets_that_take_on_other_numbers_are_refused() -> None:
    geometry = Geometry(2, 32, 2, 8, 8, 100, 16, batch=2)
    nets = {net.name: net for net in graphs.decoder_graphs(geometry, True)}
    assert sizes(nets).batch == 2
    head = graphs.lm_head(replace(geometry, batch=1), True)
    vendors = replace(nets["block_cache_0"], outputs=nets["block_cache_0"].outputs[:1])
    for odd in (head, vendors):
        with pytest.raises(UserError, match="built for 2 conversations at once, in a form that is not ours"):
            sizes({**nets, odd.name: odd})


def test_the_plan_says_it() -> None:
    plan = recipe_plan("qwen2.5-0.5b", batch=4)
    assert plan.folder.name == "qwen2.5-0.5b_int4_seq512_bm1684x_1dev_b4"
    assert recipe_plan("qwen2.5-0.5b", batch=1).folder.name == "qwen2.5-0.5b_int4_seq512_bm1684x_1dev"
    words = {step.name: step.commands[0] for step in plan.steps}
    for step in ("trace", "parity"):
        assert words[step][words[step].index("--batch") + 1] == "4"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"history": True},
            "--batch: a chunk behind a history would write into the next .* cache; leave out --history",
        ),
        ({"devices": 2}, "--batch: conversations side by side are not split over devices; use --devices 1"),
        ({"route": "llm_convert"}, "--route: llm_convert cannot build this: its nets for several conversations"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_plan("qwen2.5-0.5b", batch=2, **changes)


def test_models_that_see_are_refused() -> None:
    with pytest.raises(UserError, match=r"--batch: qwen2_5_vl models take on one conversation at a time; use 1"):
        recipe_plan("qwen2.5-vl-3b", batch=2)
