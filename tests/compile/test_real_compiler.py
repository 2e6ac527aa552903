"""The real tpu-mlir on a tiny model: what the plan promises of it, and what compile.rebind rests on."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from compile import executor, profile, toolchain
from compile.names import normalise
from compile.plan import COMBINE, PARITY, make_plan
from compile.progress import Lines
from compile.steps import Plan, Step
from exporters import spec as specs
from recipes.recipe import load
from tests.compile.builds import options
from tests.compile.test_combine import contents

pytestmark = pytest.mark.toolchain

# The one thing that differs between two compilations: the second at which they ran.
STAMP = re.compile(rb"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}")

SHARED = {  # nets and where their mlir comes from
    "block_1": "transform.block.0",
    **{net: f"transform.{net}" for net in ("embedding", "embedding_cache", "lm_head")},
}


@pytest.fixture(scope="module")
def built(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A finished build of a 2-layer model, without parity, and nets compiled once more without a template."""
    recipe, model = load("stories15m"), checkpoint("llama")
    chosen = options(recipe, seq_length=64, group_size=64)
    plan = make_plan(recipe, specs.read(model), model, tmp_path_factory.mktemp("out"), chosen).keeping()
    steps = [step for step in plan.steps if step.name != PARITY]
    plan = replace(plan, steps=(*steps, *(by_itself(step) for step in steps if step.name in SHARED)))
    executor.run(plan, toolchain.runners(toolchain.find()), 2, Lines(Console()))
    return plan


def by_itself(step: Step) -> Step:
    """`step`, with the command that rebind falls back to in rebind's place."""
    rebind, *rest = step.commands
    return replace(step, name=f"alone.{step.name}", commands=(rebind[rebind.index("--") + 1 :], *rest))


@pytest.mark.parametrize(("net", "template"), SHARED.items())
def test_a_net_from_a_template_is_the_net_transformed_by_itself(built: Plan, net: str, template: str) -> None:
    work = built.folder / "work"
    assert '"reason": ""' in (work / template / "template.json").read_text()
    shared, alone = ((work / step / f"{net}.bmodel").read_bytes() for step in (net, f"alone.{net}"))
    assert STAMP.search(shared)
    assert STAMP.sub(b"", shared) == STAMP.sub(b"", alone)


def test_every_net_is_counted(built: Plan) -> None:
    cycles = {net.name: profile.cycles(built.folder / "work" / net.name, 1) for net in built.nets}
    assert all(count and count > 0 for count in cycles.values()), cycles
    assert cycles["block_0"] == cycles["block_1"]
    assert cycles["block_cache_0"] < cycles["block_0"]


def test_nets_of_a_layer_share_their_weights(built: Plan) -> None:
    """The kernel module lies in every bmodel once, weights of block_i and block_cache_i in the whole once."""
    work = built.folder / "work"
    sizes = [(work / net.name / f"{net.name}.bmodel").stat().st_size for net in built.nets]
    whole = (work / COMBINE / built.bmodel).stat().st_size
    kernel = 5_598_792  # as `model_tool --info` says
    assert kernel < whole < sum(sizes) - kernel * (len(sizes) - 1)


def test_the_whole_says_what_the_vendors_tool_makes_of_the_parts(built: Plan, tmp_path: Path) -> None:
    """Nets in the same order, with the same weights, commands and kernel, in a file of the same size."""
    whole, runner = built.folder / "work" / COMBINE / built.bmodel, toolchain.find().runner
    (combine,) = (step for step in built.steps if step.name == COMBINE)
    parts = [str(built.folder / "work" / file) for file in combine.inputs if not file.startswith("/")]
    command = ["model_tool", "--combine", *parts, "-o", str(tmp_path / "theirs.bmodel")]
    subprocess.run(command, env=runner.environment(), cwd=tmp_path, check=True, capture_output=True)
    subprocess.run(normalise(str(tmp_path / "theirs.bmodel")), check=True)
    assert contents(whole) == contents(tmp_path / "theirs.bmodel")
    assert whole.stat().st_size == (tmp_path / "theirs.bmodel").stat().st_size


def test_a_second_run_does_nothing(built: Plan) -> None:
    class Refuse(Lines):
        def running(self, step: Step, command: tuple[str, ...]) -> None:
            raise AssertionError(f"{step.name} runs again")

    executor.run(built, toolchain.runners(toolchain.find()), 2, Refuse(Console()))
