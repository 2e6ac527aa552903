"""SYMMETRIC: 4- and 8-bit groups without a zero point."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contract.errors import UserError
from tests.compile.builds import recipe_plan
from tests.options.conftest import Made, cosines


@pytest.mark.toolchain
@pytest.mark.parametrize(("mode", "bar"), [("int4", 0.96), ("int8", 0.999)])
def test_symmetric_groups_pass_and_differ(mode: str, bar: float, made: Made, gaussian: Path) -> None:
    """A zero point lets a group use its whole range: without one 4 bits are a little coarser."""
    plain = made(gaussian, "--mode", mode)
    folder = made(gaussian, "--mode", mode, "--symmetric")
    assert folder.name == plain.name + "_sym"
    with_zero, without = cosines(plain), cosines(folder)
    print({mode: (round(with_zero["block_0"], 5), round(without["block_0"], 5))})
    for net in ("block_0", "block_1", "block_cache_0", "block_cache_1"):
        assert bar < without[net] < 1
        assert without[net] != with_zero[net]
    if mode == "int4":
        assert without["block_0"] < with_zero["block_0"]


def test_it_reaches_every_net_with_groups() -> None:
    plan = recipe_plan("qwen2.5-0.5b", symmetric=True)
    said = {step.name: " ".join(sum(step.commands, ())) for step in plan.steps}
    told = {name for name, words in said.items() if re.search("--q_group_size [0-9]+ --q_symmetric", words)}
    layers = {f"{kind}_{i}" for kind in ("block", "block_cache") for i in range(24)}
    assert told == {*layers, "lm_head"}
    assert not any("--q_symmetric" in words for name, words in said.items() if name not in told)


@pytest.mark.parametrize("mode", ["bf16", "f16"])
def test_nothing_to_be_symmetric(mode: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_plan("qwen2.5-0.5b", mode=mode, symmetric=True)
    told = f"--symmetric: nothing is quantised in groups in mode {mode}; leave it out, or use MODE=int4 or int8"
    assert str(error.value) == told
    assert recipe_plan("qwen2.5-0.5b", mode=mode, symmetric=True, head="int8" if mode == "bf16" else "int4").steps
