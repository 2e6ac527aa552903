"""DYNAMIC_VIT: a tower that computes as many patches as a picture has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contract import graphs
from contract.errors import UserError
from contract.vision import Pictures
from runtime.engine import Engine
from runtime.half import Array
from tests import vision_models
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import manifest
from tests.options.conftest import Made
from tests.options.conversations import CHIP
from tests.options.test_dynamic import processor_seconds

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_heads": 4, "depth": 2, "fullatt_block_indexes": [1]}
WHOLE, QUARTER = (16, 16), (8, 8)  # patches


@pytest.fixture(scope="module")
def towers(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Static and dynamic, of one checkpoint."""
    folder = vision_models.bare("qwen2_5_vl", tmp_path_factory.mktemp("checkpoints") / "wide", vision_config=WIDE)
    words = ("--mode", "bf16", "--verify", "none", "--max-pixels", "224,224")
    return made(folder, *words), made(folder, *words, "--dynamic-vit")


def launch(engine: Engine, grid: tuple[int, int]) -> Array:
    """Feature rows of a picture that is the same each time."""
    patches = grid[0] * grid[1]
    pixels = np.random.default_rng(patches).normal(size=(patches, 1176)).astype(np.float32)
    assert engine.tower
    ((inputs, rows),) = engine.tower.launches(Pictures(pixels, ((1, *grid),), (False,), (0.0,)))
    return engine.run(graphs.VIT, inputs)["image_embeds"][:rows].astype(np.float32)


def opened(folder: Path) -> Engine:
    return Engine(next(folder.glob("*.bmodel")), CHIP)


@pytest.mark.toolchain
def test_rows_are_those_of_a_static_tower(towers: tuple[Path, Path]) -> None:
    found = []
    for folder in towers:
        with opened(folder) as engine:  # from large to small: what a larger picture left must not matter
            found.append([launch(engine, grid) for grid in (WHOLE, (4, 10), QUARTER, (2, 2), WHOLE)])
    for static, dynamic in zip(*found, strict=True):
        cosine = (static * dynamic).sum() / np.linalg.norm(static) / np.linalg.norm(dynamic)
        assert static.shape == dynamic.shape
        assert cosine > 0.9995


@pytest.mark.toolchain
def test_positions_that_the_host_gives_are_as_many_as_the_patches(made: Made, tmp_path: Path) -> None:
    """The ladder's picture is smaller than the largest."""
    words = ("--mode", "bf16", "--max-pixels", "112,168", "--dynamic-vit")
    done = manifest(made(vision_models.bare("glm4v", tmp_path / "sees"), *words))
    assert done["status"] == "verified", done["reason"]
    assert {"chip", "tokens"} <= {score["rung"] for score in done["parity"]}


@pytest.mark.toolchain
def test_a_quarter_of_the_patches_costs_well_under_half(towers: tuple[Path, Path]) -> None:
    """The compiler counts no cycles of dynamic nets, so: processor time of the simulator, the least of a few."""
    with opened(towers[1]) as engine:

        def seconds(grid: tuple[int, int]) -> float:
            return min(clocked(engine, lambda: launch(engine, grid)) for _ in range(3))

        whole, quarter = seconds(WHOLE), seconds(QUARTER)
    print(f"simulator, dynamic tower: {whole:.2f} s for {WHOLE} patches, {quarter:.2f} s for {QUARTER}")
    assert quarter < 0.4 * whole
    static, dynamic = (manifest(folder)["nets"]["vit"]["cycles"] for folder in towers)
    assert static
    assert dynamic is None


def clocked(engine: Engine, work: Callable[[], object]) -> float:
    before = processor_seconds(engine._process.pid)
    work()
    return processor_seconds(engine._process.pid) - before


def test_the_tower_alone_is_dynamic() -> None:
    plan = recipe_plan("qwen2.5-vl-3b", dynamic_vit=True)
    assert [s.name for s in plan.steps if any("--dynamic" in command for command in s.commands)] == [graphs.VIT]
    assert plan.folder.name.endswith("_dynamic-vit")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("gemma3-4b", "pictures of this model have one size; leave it out"),
        ("qwen2.5-0.5b", "qwen2 models see no pictures; leave it out"),
    ],
)
def test_what_cannot_be_is_refused(recipe: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_plan(recipe, dynamic_vit=True)
    assert str(error.value) == f"--dynamic-vit: {message}"
