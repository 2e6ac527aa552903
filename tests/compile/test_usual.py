"""Rates for what was never built, held to what was measured of like steps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from compile import quantization
from compile.usual import usual
from tests.compile.builds import options, recipe_and_spec, recipe_plan

MB = 10**6
GB = 10**9


def levels(recipe: str, mode: str, step: str, available: int = 64 * GB) -> Sequence[int]:
    read, spec = recipe_and_spec(recipe)
    plan = recipe_plan(recipe, mode=mode, sample=True)
    words = {
        net.name: quantization.word(read, spec, options(read, mode=mode, sample=True), net.kind, 0) for net in plan.nets
    }
    (found,) = [one for one in plan.steps if one.name == step]
    return usual(found, plan, spec, words, available).memory


# Resident at the peak, tpu-mlir 1.30.2, torch 2.13: the step's processes; MB.
@pytest.mark.parametrize(
    ("recipe", "mode", "step", "measured"),
    [
        ("qwen2.5-0.5b", "int4", "trace", 360),
        ("qwen2.5-0.5b", "int4", "bind.embedding", 913),
        ("qwen2.5-0.5b", "int4", "bind.layer_0", 103),
        ("qwen2.5-0.5b", "int4", "transform.embedding", 489),
        ("qwen2.5-0.5b", "int4", "transform.block.0", 735),
        ("qwen2.5-0.5b", "int4", "block_0", 174),
        ("qwen2.5-0.5b", "int8", "block_0", 187),
        ("qwen2.5-0.5b", "bf16", "block_cache_0", 185),
        ("qwen2.5-0.5b", "int4", "embedding", 1695),
        ("qwen2.5-0.5b", "int4", "lm_head", 2121),
        ("qwen2.5-0.5b", "bf16", "lm_head", 1695),
        ("qwen2.5-7b", "int4", "bind.head", 3366),
        ("qwen2.5-7b", "int4", "bind.layer_0", 1106),
        ("qwen2.5-7b", "int4", "transform.block_cache.0", 4256),
        ("qwen2.5-7b", "int4", "block_cache_0", 1798),
        ("qwen2.5-7b", "bf16", "block_0", 1810),
        ("qwen2.5-7b", "int8", "block_0", 1938),
        ("qwen2.5-7b", "int4", "embedding_cache", 6668),
        ("qwen2.5-7b", "int4", "lm_head", 8372),
        ("qwen2.5-7b", "bf16", "lm_head", 6601),
    ],
)
def test_memory_is_within_15_percent(recipe: str, mode: str, step: str, measured: int) -> None:
    assert max(levels(recipe, mode, step)) == pytest.approx(measured * MB, rel=0.15)


def test_heads_without_weights_take_what_any_transform_takes() -> None:
    small, large = (max(levels(name, "int4", "greedy_head")) for name in ("qwen2.5-0.5b", "qwen2.5-7b"))
    assert small == large < GB


def test_parity_leaves_on_disk_what_memory_does_not_hold() -> None:
    (all_of_it,), (some,) = (levels("qwen2.5-7b", "int4", "parity", size * GB) for size in (64, 24))
    assert all_of_it > 4 * 7.6 * GB
    assert some < 24 * GB
