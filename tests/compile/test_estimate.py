"""Estimates hold what was measured, and are not absurdly larger."""

from __future__ import annotations

from pathlib import Path

import pytest

from compile import estimate
from contract.errors import UserError
from tests.compile.builds import recipe_and_spec

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


def test_disk_grows_with_the_model_and_its_bits() -> None:
    small, large = (recipe_and_spec(name)[1] for name in ("qwen2.5-0.5b", "qwen2.5-7b"))
    assert estimate.disk(small, "int4", 512) < estimate.disk(small, "bf16", 512) < estimate.disk(large, "int4", 512)
    # A folder holds the float32 weights at least; the rest stays within thrice that.
    weights = 4 * 7.6 * GB
    assert weights < estimate.disk(large, "bf16", 512) < 3 * weights


def test_a_full_disk_is_told_with_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        estimate.check_disk(tmp_path / "not" / "yet", 2**60)
    assert error.value.where == str(tmp_path)
    estimate.check_disk(tmp_path / "not" / "yet", 1000)
