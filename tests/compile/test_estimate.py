"""Estimates hold what was measured, and are not absurdly larger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compile import estimate, parts
from contract.errors import UserError
from recipes.recipe import Rule
from tests.compile.builds import recipe_and_spec, recipe_plan

GB = 10**9
MB = 10**6


# Peak of the largest process (ru_maxrss), tpu-mlir 1.30.2, bytes.
@pytest.mark.parametrize(
    ("recipe", "group", "step", "measured"),
    [
        ("qwen2.5-0.5b", "layer_0", estimate.transform_memory, 1113 * MB),
        ("qwen2.5-0.5b", "embedding", estimate.transform_memory, 3013 * MB),
        ("qwen2.5-0.5b", "layer_0", estimate.deploy_memory, 180 * MB),
        ("qwen2.5-0.5b", "head", estimate.deploy_memory, 2110 * MB),
        ("qwen2.5-7b", "layer_0", estimate.transform_memory, 4500 * MB),
        ("qwen2.5-7b", "layer_0", estimate.deploy_memory, 1700 * MB),
    ],
)
def test_memory(recipe: str, group: str, step: object, measured: int) -> None:
    guess = step(recipe_and_spec(recipe)[1], group)  # type: ignore[operator]
    assert measured <= guess <= max(2.5 * measured, measured + GB / 2)


# Bytes of whole builds, tpu-mlir 1.30.2, chip bm1684x.
@pytest.mark.parametrize(
    ("recipe", "mode", "measured"),
    [
        ("stories15m", "int4", 42471424),
        ("stories15m", "int8", 47534080),
        ("stories15m", "bf16", 54906880),
        ("stories15m", "f16", 54906880),
        ("smollm2-135m", "int4", 159719424),
    ],
)
def test_the_bmodels_size(recipe: str, mode: str, measured: int) -> None:
    read, spec = recipe_and_spec(recipe)
    guess = estimate.bmodel_bytes(read, spec, mode, read.seq_length, read.group_size)
    assert guess == pytest.approx(measured, rel=0.15)


def test_the_weights_of_a_layer_of_real_size() -> None:
    """Weights, scales and zero points of a layer of Qwen2.5-0.5B, int4 in groups of 64, as the compiler lays them."""
    read, spec = recipe_and_spec("qwen2.5-0.5b")
    two = replace(spec, layers=2, layer_parameters=spec.layer_parameters[:2], layer_kinds=(0, 0))
    three = replace(spec, layers=3, layer_parameters=spec.layer_parameters[:3], layer_kinds=(0, 0, 0))
    larger, smaller = (estimate.bmodel_bytes(read, s, "int4", 512, 64) for s in (three, two))
    assert larger - smaller == pytest.approx(8318976 + 60_000, rel=0.05)


@pytest.mark.parametrize(("layers", "measured"), [(2, 5395), (8, 6807)])
def test_what_llm_convert_leaves(layers: int, measured: int) -> None:
    """Of Qwen2.5-0.5B's sizes, int4: MB."""
    spec = recipe_and_spec("qwen2.5-0.5b")[1]
    sizes = {"embedding": [278 * MB, 278 * MB], "head": [278 * MB]}
    sizes |= {f"layer_{i}": [14 * MB, 14 * MB] for i in range(layers)}
    assert estimate.convert_disk(sizes, spec) == pytest.approx(measured * MB, rel=0.15)
    groups = [group for group, made in sizes.items() for _ in made]
    assert 6446 * MB < estimate.convert_memory(groups, spec) < 1.5 * 6446 * MB


def test_layers_of_different_size_count_as_what_they_are() -> None:
    read, spec = recipe_and_spec("deepseek-v2-lite")
    dense, routed = (estimate.group_bytes(spec, f"layer_{i}") for i in (0, 1))
    assert routed > 5 * dense
    assert routed == estimate.group_bytes(spec, "layer_26") == 4 * spec.layer_parameters[26]
    assert estimate.parity_memory(spec) > 4 * spec.parameters
    assert spec.parameters < recipe_plan("deepseek-v2-lite", mode="int4").disk < 4 * spec.parameters
    # Two bytes a parameter, and the experts are most of them.
    assert estimate.bmodel_bytes(read, spec, "bf16", 512, 64) == pytest.approx(2 * spec.parameters, rel=0.02)


def test_nets_that_share_nothing_take_their_room_twice() -> None:
    read, spec = recipe_and_spec("qwen2.5-0.5b")
    rule = Rule(net="block", mode="int4", use="int8")
    apart = read.model_copy(update={"rules": (rule, *read.rules)})
    one, two = (estimate.bmodel_bytes(r, spec, "int4", 512, 64) for r in (read, apart))
    assert two - one > sum(spec.layer_parameters)


def test_disk_grows_with_the_model_and_its_bits_and_with_what_is_kept() -> None:
    small = recipe_plan("qwen2.5-0.5b", mode="int4")
    large, half = (recipe_plan("qwen2.5-7b", mode=mode) for mode in ("int4", "bf16"))
    assert small.disk < large.disk <= half.disk < half.keeping().disk
    checkpoint = 2 * 7.62 * GB
    assert 1.0 * checkpoint < large.disk <= half.disk < 1.3 * checkpoint + 4 * 4 * 0.234 * GB
    # The folder with all in it holds the float32 weights at least.
    assert 2 * checkpoint < large.keeping().disk < 6 * checkpoint


def test_what_combines_holds_little_of_it() -> None:
    for name in ("qwen2.5-7b", "qwen2-72b"):
        combine = recipe_plan(name, mode="int4").steps[-1]
        assert (combine.name, combine.memory, combine.disk) == ("combine", 2**28, parts.CHUNK)


def test_the_room_is_what_is_promised_but_for_large_tables() -> None:
    for name, checkpoints in (("qwen2.5-7b", 1.3), ("qwen2.5-0.5b", 1.3), ("gemma3-1b", 1.355)):
        spec = recipe_and_spec(name)[1]
        promised = checkpoints * 2 * spec.parameters + 4 * 4 * max(spec.layer_parameters)
        assert recipe_plan(name, mode="int4").room == pytest.approx(promised, rel=0.01)


def test_a_full_disk_is_told_with_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        estimate.check_disk(tmp_path / "not" / "yet", 2**60)
    assert error.value.where == str(tmp_path)
    estimate.check_disk(tmp_path / "not" / "yet", 1000)
