"""GROUP: input channels per scale in int4."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contract.errors import UserError
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import manifest
from tests.options.conftest import Made, cosines

SIZES = (128, 64, 32)
BLOCKS = ("block_0", "block_1", "block_cache_0", "block_cache_1")


@pytest.mark.toolchain
def test_smaller_groups_are_nearer(made: Made, gaussian: Path) -> None:
    folders = {size: made(gaussian, "--group-size", str(size)) for size in SIZES}
    near = {size: cosines(folder) for size, folder in folders.items()}
    mean = {size: sum(of[net] for net in BLOCKS) / len(BLOCKS) for size, of in near.items()}
    print({size: round(value, 5) for size, value in mean.items()})
    assert 0.96 < mean[128] < mean[64] < mean[32] < 1
    for size, folder in folders.items():
        sizes = set(re.findall(r"q_group_size = (\d+)", (folder / "work/block_0/block_0/final.mlir").read_text()))
        assert sizes == {str(size)}
    assert {near[size]["embedding"] for size in SIZES} == {near[32]["embedding"]}


@pytest.mark.toolchain
def test_another_group_builds_the_blocks_anew_and_nothing_else(made: Made, gaussian: Path) -> None:
    first = made(gaussian, "--group-size", "32", "--verify", "none")
    second = made(gaussian, "--group-size", "64", "--verify", "none")
    assert second.name == first.name + "_g64"
    same = {net for net in manifest(first)["nets"] if bytes_of(first, net) == bytes_of(second, net)}
    assert same == {"embedding", "embedding_cache", "lm_head", "greedy_head", "sample_head"}


def bytes_of(folder: Path, net: str) -> bytes:
    return (folder / "work" / net / net / "final.mlir").read_bytes()


def test_a_group_must_divide_the_widths() -> None:
    with pytest.raises(UserError, match=r"--group-size: group size 60 does not divide .* use 128, 64 or 32"):
        recipe_plan("qwen2.5-0.5b", group_size=60)
    assert recipe_plan("qwen2.5-0.5b", group_size=32).folder.name == "qwen2.5-0.5b_int4_seq512_bm1684x_1dev_g32"
