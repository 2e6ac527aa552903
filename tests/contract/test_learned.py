"""Learned positions on a picture's grid, against torch's own interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contract.learned import bicubic
from contract.vision import positions


@pytest.mark.parametrize("grid", [(1, 2, 2), (1, 4, 10), (1, 24, 24), (1, 48, 64), (3, 6, 8), (1, 96, 2)])
@pytest.mark.parametrize("side", [5, 24])
def test_bicubic_is_grid_sample(grid: tuple[int, int, int], side: int) -> None:
    """As transformers calls it in GLM-4.1V's tower: smaller and larger grids than the table's, and its own."""
    table = np.random.default_rng(side).normal(size=(1, 7, side, side)).astype(np.float32)
    places = positions(grid, 2)
    row, column = (torch.from_numpy(places[:, axis]) for axis in (0, 1))
    at = torch.stack((((column + 0.5) / grid[2]) * 2 - 1, ((row + 0.5) / grid[1]) * 2 - 1), dim=-1)
    wanted = torch.nn.functional.grid_sample(
        torch.from_numpy(table), at[None, :, None], mode="bicubic", align_corners=False, padding_mode="border"
    )
    np.testing.assert_allclose(bicubic(places, *grid[1:], table), wanted[0, :, :, 0].numpy().T, atol=2e-5)


def test_a_grid_of_the_tables_own_size_takes_it_as_it_is() -> None:
    table = np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)
    places = positions((1, 6, 6), 2)
    np.testing.assert_allclose(bicubic(places, 6, 6, table), table[0][:, places[:, 0], places[:, 1]].T, atol=1e-6)
