"""Masks that depend on how far apart two positions lie: sliding windows and ALiBi. They are made in the graph.

The caller's mask stays the contract's [1, 1, T, visible], so that whoever runs a bmodel need not know of either.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from contract.graphs import MASKED

_CHUNK = 64


class Distance(nn.Module):
    """position_ids [N, T] to (key - query + shift), [N, 1, T, length], for the keys at positions 0..length.

    A half type counts exactly to 256 only. So the query's position is looked up in two tables whose entries are exact,
    a multiple of 64 and a rest, and their sum is exact wherever it is small: near the query, or, with `shift`, near the
    edge of its window.
    """

    def __init__(self, length: int, shift: int = 0) -> None:
        super().__init__()
        self.length, chunks = length, -(-length // _CHUNK)
        query = torch.arange(length)[:, None] - shift
        high = query // _CHUNK
        self.register_buffer("coarse", (torch.arange(chunks)[None] - high).float() * _CHUNK)
        self.register_buffer("fine", (torch.arange(_CHUNK)[None] - (query - high * _CHUNK)).float())

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        coarse = nn.functional.embedding(position_ids, self.coarse)  # type: ignore[arg-type]
        fine = nn.functional.embedding(position_ids, self.fine)  # type: ignore[arg-type]
        return self._sum(coarse, fine)

    def within(self, count: int) -> torch.Tensor:
        """The same among `count` positions that follow one another, wherever they begin: [1, 1, count, count]."""
        return self._sum(self.coarse[None, :count], self.fine[None, :count])[..., :count]  # type: ignore[index]

    def _sum(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        both = coarse[..., :, None] + fine[..., None, :]
        return both.reshape(both.shape[0], 1, coarse.shape[1], -1)[..., : self.length]


class Window(nn.Module):
    """Hides what lies `window` positions or more before the query. Adds to the mask; future keys are its business."""

    def __init__(self, length: int, window: int) -> None:
        super().__init__()
        self.distance = Distance(length, shift=window)

    def forward(self, position_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mask + visible(self.distance, self._hidden, position_ids, mask)

    def _hidden(self, distance: torch.Tensor) -> torch.Tensor:
        # key - query + window is 1 for the farthest visible key, 0 for the nearest hidden one.
        return (1.0 - distance.clamp(0.0, 1.0)) * MASKED


class Alibi(nn.Module):
    """Adds slope * (key - query) to the mask: [1, 1, T, visible] to [1, heads, T, visible].

    Slopes as in "Train Short, Test Long" (Press et al., 2022): powers of 2^(-8/n) for n heads, and for a number that
    is no power of two, those of the next one below, then every second of the one above.
    """

    def __init__(self, length: int, heads: int) -> None:
        super().__init__()
        self.distance = Distance(length)
        self.register_buffer("slopes", torch.tensor(slopes(heads)).view(1, heads, 1, 1))

    def forward(self, position_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mask + self.slopes * visible(self.distance, self._before, position_ids, mask)  # type: ignore[operator]

    def _before(self, distance: torch.Tensor) -> torch.Tensor:
        # Keys after the query are masked; there the bias must not lift them up again.
        return distance.clamp(max=0.0)


def slopes(heads: int) -> list[float]:
    """One slope a head."""
    power = 2 ** (heads.bit_length() - 1)
    first = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    return first + [2.0 ** (-4 * (i + 1) / power) for i in range(0, 2 * (heads - power), 2)]


def visible(
    distance: Distance, of: Callable[[torch.Tensor], torch.Tensor], position_ids: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """`of` the distances to all keys that `mask` [1, 1, T, visible] knows. Without a history these are the first
    `visible` positions; with one, `length` positions of the cache, then the T new ones themselves."""
    cached = of(distance(position_ids))
    count, keys = mask.shape[2], mask.shape[3]
    if keys <= distance.length:
        return cached[..., :keys]
    # A decode step lies at distance 0 from itself, where neither window nor ALiBi does anything.
    own = torch.zeros_like(cached[..., :1]) if count == 1 else of(distance.within(count))
    return torch.cat([cached, own], dim=-1)
