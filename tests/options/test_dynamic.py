"""DYNAMIC: prefill nets that compute as many positions as a prompt has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contract import graphs
from contract.errors import UserError
from runtime.engine import Engine
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import manifest
from tests.options.conftest import Checkpoint, Made
from tests.options.conversations import CHIP, answer, assert_same, ids, session

PLAIN, QUIET = ("--mode", "bf16"), ("--verify", "none")
BF16 = (*PLAIN, "--dynamic")
SEQ = 96


@pytest.mark.toolchain
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qwen2", ()),
        ("llama", ("--chip", "bm1688")),
        ("minicpm3", ()),
        ("gemma2", ("--seq-length", "24")),  # its window: no mask is made in the graph
        ("qwen2", ("--history",)),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)
def test_it_climbs_the_ladder(name: str, options: tuple[str, ...], checkpoint: Checkpoint, made: Made) -> None:
    done = manifest(made(checkpoint(name), *BF16, *options))
    assert done["status"] == "verified", done["reason"]
    assert {s["rung"] for s in done["parity"] if s["net"] == "block_0"} == {"patched", "onnx", "chip"}


@pytest.mark.toolchain
@pytest.mark.parametrize("name", ["qwen2", "minicpm3"])
def test_every_length_gives_the_tokens_of_a_static_build(name: str, checkpoint: Checkpoint, made: Made) -> None:
    steps = []
    for words in (PLAIN, BF16):
        with session(made(checkpoint(name), *words, *QUIET)) as opened:
            # From long to short: what an earlier prompt left in the buffers must not matter.
            steps.append(
                [
                    step
                    for length in (96, 64, 33, 12, 5, 1)
                    for step in answer(
                        opened, opened.prefill(ids(length, seed=length)), ids(min(3, SEQ - length), seed=99)
                    )
                ]
            )
    assert_same(steps[1], steps[0])


@pytest.mark.toolchain
def test_a_second_turn_costs_what_is_cached_and_what_is_new(checkpoint: Checkpoint, made: Made) -> None:
    first, second, forced = ids(41, seed=1), ids(39, seed=2), ids(4, seed=3)
    with session(made(checkpoint("qwen2"), *PLAIN, *QUIET)) as opened:
        wanted = answer(opened, opened.prefill([*first, *second]), forced)
    with session(made(checkpoint("qwen2"), *BF16, "--history", "--input-length", "32", *QUIET)) as opened:
        opened.prefill(first)
        found = answer(opened, opened.extend(second), forced)
    assert_same(found, wanted, 0.9995)  # the fused attention of a history of other length adds in another order


@pytest.mark.toolchain
def test_an_eighth_of_the_length_costs_well_under_half(checkpoint: Checkpoint, made: Made) -> None:
    """The compiler counts no cycles of dynamic nets. So: cycles of a static net of that length, and the processor time
    that the simulator takes for the very launch."""
    whole, eighth = 256, 32
    words = (*PLAIN, "--seq-length", str(whole), *QUIET)
    static, short = (
        manifest(made(checkpoint("qwen2"), *words, *more)) for more in ((), ("--input-length", str(eighth)))
    )
    cycles = [of["nets"]["block_0"]["cycles"] for of in (static, short)]
    assert cycles[1] < 0.4 * cycles[0]
    seconds = {}
    for more in ((), ("--dynamic",)):
        folder = made(checkpoint("qwen2"), *words, *more)
        with Engine(next(folder.glob("*.bmodel")), CHIP) as engine:
            seconds[more] = least_seconds(engine, eighth)
    assert manifest(folder)["nets"]["block_0"]["cycles"] is None
    print(f"cycles of block_0, static: {cycles[0]} at {whole}, {cycles[1]} at {eighth}")
    print(f"simulator, prompt of {eighth}: {seconds[()]:.2f} s static, {seconds[('--dynamic',)]:.2f} s dynamic")
    assert seconds[("--dynamic",)] < 0.4 * seconds[()]


def least_seconds(engine: Engine, length: int) -> float:
    """Processor time of the prefill of a prompt: the least of a few, since threads that wait also spin."""
    found = []
    with engine.session() as opened:
        for _ in range(4):
            before = processor_seconds(engine._process.pid)
            opened.prefill(ids(length))
            found.append(processor_seconds(engine._process.pid) - before)
    return min(found)


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_prefill_nets_alone_are_dynamic() -> None:
    plan = recipe_plan("qwen2.5-0.5b", dynamic=True, history=True, sample=False)
    dynamic = {net.kind for net in plan.nets for s in plan.steps if s.name == net.name and "--dynamic" in s.commands[1]}
    assert dynamic == {graphs.EMBEDDING, graphs.BLOCK, graphs.BLOCK_KV}
    assert plan.folder.name == "qwen2.5-0.5b_int4_seq512_bm1684x_1dev_history_dynamic"


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (
            "gemma2-2b",
            {"seq_length": 8192},
            "dynamic nets know no windows of 4096 positions; leave it out, or use --seq-length 4096 or less",
        ),
        (
            "baichuan2-13b",
            {},
            "dynamic nets know no ALiBi, which baichuan models of this size have; leave it out",
        ),
        ("qwen3-0.6b", {}, "qwen3 models norm their heads, which dynamic nets cannot; leave it out"),
        ("deepseek-v2-lite", {}, "deepseek_v2 models choose experts, which dynamic nets cannot; leave it out"),
    ],
)
def test_what_cannot_be_is_refused(recipe: str, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_plan(recipe, dynamic=True, **changes)
    assert str(error.value) == f"--dynamic: {message}"
