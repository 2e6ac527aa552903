"""Learned tables of positions, brought to the grid of a picture: what of it the host does.

numpy only. `places` [N, 2]: row and column of each patch, in a grid of `high` x `wide` patches. A table has `side` rows
and columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_SHARPNESS = -0.75  # of the cubic, as torch has it


def bilinear(places: Array, high: int, wide: int, side: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Corners on corners: the four neighbours of each patch in the flat table, [N, 4], and their weights, [N, 4, 1]."""
    rows, columns = (np.linspace(0, side - 1, n, dtype=np.float32) for n in (high, wide))
    y, x = rows[places[:, 0]], columns[places[:, 1]]
    y0, x0 = y.astype(np.int64), x.astype(np.int64)
    y1, x1 = np.minimum(y0 + 1, side - 1), np.minimum(x0 + 1, side - 1)
    dy, dx = y - y0, x - x0
    indices = np.stack([y0 * side + x0, y0 * side + x1, y1 * side + x0, y1 * side + x1], axis=1)
    weights = np.stack([(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx], axis=1)
    return indices.astype(np.int32), weights.astype(np.float32)[..., None]


def bicubic(places: Array, high: int, wide: int, table: Array) -> NDArray[np.float32]:
    """Edges on edges, as torch's grid_sample does with its border repeated: [N, H], of a `table` [1, H, side, side]."""
    rows, columns = (_cubic(n, table.shape[-1]) for n in (high, wide))
    grid = np.einsum("hr,krc,wc->hwk", rows, table[0], columns, optimize=True)
    return np.asarray(grid[places[:, 0], places[:, 1]], np.float32)


def _cubic(count: int, side: int) -> NDArray[np.float32]:
    """Weights of a table's rows in each of `count` patches, [count, side]."""
    centre = (np.arange(count, dtype=np.float32) + np.float32(0.5)) / np.float32(count)
    place = ((centre * 2 - 1 + 1) * side - 1) / 2
    first = np.floor(place)
    t = place - first
    weights = [_outer(t + 1), _inner(t), _inner(1 - t), _outer(2 - t)]
    made = np.zeros((count, side), np.float32)
    for step, weight in enumerate(weights, -1):
        near = np.clip(first + step, 0, side - 1).astype(np.int64)
        np.add.at(made, (np.arange(count), near), weight)
    return made


def _inner(x: Array) -> Array:
    """Of a neighbour less than 1 away."""
    return np.asarray(((_SHARPNESS + 2) * x - (_SHARPNESS + 3)) * x * x + 1)


def _outer(x: Array) -> Array:
    """Of one that is 1 to 2 away."""
    return np.asarray(((_SHARPNESS * x - 5 * _SHARPNESS) * x + 8 * _SHARPNESS) * x - 4 * _SHARPNESS)
