"""The plan: golden scripts, a sound DAG, and every option that must be refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compile.script import render
from compile.steps import COMPILER, EXPORTER, Plan
from compile.toolchain import Runner
from contract.errors import UserError
from tests.compile.builds import recipe_plan

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"
HOME = "/opt/hf2bmodel"
RUNNERS = {
    EXPORTER: Runner((f"{HOME}/.venv/bin",)),
    COMPILER: Runner((f"{HOME}/.venv-tpu-mlir/bin",), {"OMP_NUM_THREADS": "1"}),
}
BUILDS = {
    "stories15m_int4": ("stories15m", {}),
    "stories15m_bf16_logits": ("stories15m", {"mode": "bf16", "sample": True}),
    "qwen2.5-0.5b_int4_1dev": ("qwen2.5-0.5b", {}),
    "qwen2.5-0.5b_int4_2dev": ("qwen2.5-0.5b", {"devices": 2}),
    "qwen2.5-0.5b_int8_bm1688": ("qwen2.5-0.5b", {"mode": "int8", "chip": "bm1688"}),
}


def plan_named(name: str) -> Plan:
    recipe, changes = BUILDS[name]
    return recipe_plan(recipe, **changes)


@pytest.mark.parametrize("name", BUILDS)
def test_the_script_is_the_golden_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a wanted change: UPDATE_GOLDEN=1 pytest tests/compile/test_plan.py, then read the diff."""
    # Where this checkout lies must not matter: its path decides where a long line of the script breaks.
    monkeypatch.setattr("compile.plan.REBIND", Path(HOME) / "compile" / "rebind.py")
    monkeypatch.setattr("compile.names.NORMALISE", Path(HOME) / "compile" / "normalise.py")
    script = render(plan_named(name), RUNNERS)
    path = GOLDEN / f"{name}.sh"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(script, encoding="utf-8")
    assert script == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BUILDS)
def test_where_this_program_lies_decides_no_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = [step.words for step in plan_named(name).steps]
    assert not any(str(ROOT) in words for words in here)
    monkeypatch.setattr("compile.plan.REBIND", Path(HOME) / "compile" / "rebind.py")
    monkeypatch.setattr("compile.names.NORMALISE", Path(HOME) / "compile" / "normalise.py")
    monkeypatch.setattr("compile.steps.HERE", str(Path(HOME) / "compile"))
    assert [step.words for step in plan_named(name).steps] == here


@pytest.mark.parametrize("name", BUILDS)
def test_every_input_is_an_output_of_an_earlier_step(name: str) -> None:
    made: dict[str, tuple[str, ...]] = {}
    for step in plan_named(name).steps:
        for wanted in step.inputs:
            producer, _, file = wanted.partition("/")
            if producer:
                assert producer in made, f"{step.name} reads {wanted} before it is made"
                assert not file or file in made[producer], f"{step.name} reads {wanted}, which no step promises"
        assert step.name not in made
        made[step.name] = step.outputs


@pytest.mark.parametrize("name", BUILDS)
def test_relative_paths_on_a_command_line_are_declared_inputs(name: str) -> None:
    """A file that a command reads and the step does not declare would not make it run again."""
    for step in plan_named(name).steps:
        read = {word.removeprefix("../") for command in step.commands for word in command if word.startswith("../")}
        declared = {i.rstrip("/") for i in step.inputs}
        assert read <= declared | {"trace"}, step.name


def test_layers_share_one_transform_and_tables_are_never_transformed() -> None:
    plan = plan_named("qwen2.5-0.5b_int4_1dev")
    transforms = {s.name: c for s in plan.steps for c in s.commands if c[0] == "model_transform.py"}
    tables = ("transform.embedding", "transform.embedding_cache", "transform.lm_head")
    assert sorted(transforms) == sorted(("transform.block.0", "transform.block_cache.0", *tables))
    assert all("small.onnx" in transforms[name] for name in tables)


@pytest.mark.parametrize("name", BUILDS)
def test_what_passes_is_read_and_all_that_is_combined_passes(name: str) -> None:
    plan = plan_named(name)
    steps = {step.name: step for step in plan.steps}
    read = {needed for step in plan.steps for needed in step.needs}
    assert {n for n, step in steps.items() if step.passing} <= read
    assert steps["combine"].takes
    for file in steps["combine"].inputs:
        step, _, output = file.partition("/")
        assert not step or steps[step].passes(output), file
    assert not any(step.passing or step.takes for step in plan.keeping().steps)
    assert plan.keeping().disk > plan.disk


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "int3"}, '--mode: "int3" is unknown; use int4, int8, bf16 or f16'),
        ({"chip": "bm1684"}, '--chip: "bm1684" is unknown; use bm1684x, bm1688, cv186x, bm1684x2 or bm1690'),
        ({"devices": 3}, '--devices: "3" is unknown; use 1, 2, 4 or 8'),
        ({"sample": 2}, '--sample: "2" is neither true nor false; write true or false'),
        ({"seq_length": 0}, '--seq-length: "0" is no positive whole number; give one, such as 64'),
        ({"group_size": -1}, '--group-size: "-1" is no positive whole number; give one, such as 64'),
        ({"seq_length": 32769}, "--seq-length: 32769 positions cannot be built; use 1 to 32768, the model's limit"),
        ({"devices": 4}, "--devices: 14 heads and 2 KV heads cannot be split over 4 devices; use 1 or 2"),
        ({"group_size": 60}, "--group-size: group size 60 does not divide the hidden size (896); use 128, 64 or 32"),
        (
            {"group_size": 128, "devices": 2},
            "--group-size: group size 128 does not divide the attention width per device (448); use 64 or 32",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_plan("qwen2.5-0.5b", **changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("recipe", "block", "head"),
    [("qwen2.5-0.5b", 128, 128), ("stories15m", 96, 96)],
)
def test_eight_bit_groups_divide_every_width(recipe: str, block: int, head: int) -> None:
    """896 and 4864 are multiples of 128; 288 and 768 of 96."""
    plan = recipe_plan(recipe, mode="int8")
    steps = {step.name: " ".join(sum(step.commands, ())) for step in plan.steps}
    for name, group in (("block_0", block), ("block_cache_3", block), ("lm_head", head)):
        assert f"--quantize W8BF16 --q_group_size {group} " in steps[name]


def test_the_group_size_matters_to_four_bits_only() -> None:
    with pytest.raises(UserError, match="hidden size"):
        recipe_plan("stories15m", group_size=64)
    assert recipe_plan("stories15m", group_size=64, mode="int8").steps
