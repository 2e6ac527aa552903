"""Masks that depend on how far apart two positions lie: sliding windows and ALiBi. They are made in the graph.

The caller's mask stays the contract's [1, 1, T, visible], so that whoever runs a bmodel need not know of either.
"""

from __future__ import annotations

import torch
from torch import nn

from contract.graphs import MASKED

_CHUNK = 64


class Distance(nn.Module):
    """position_ids [1, T] to (key - query + shift), [1, 1, T, keys], for the keys at positions 0..length.

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
        both = coarse[..., :, None] + fine[..., None, :]
        return both.reshape(1, 1, position_ids.shape[1], -1)[..., : self.length]


class Window(nn.Module):
    """Hides what lies `window` positions or more before the query. Adds to the mask; future keys are its business."""

    def __init__(self, length: int, window: int) -> None:
        super().__init__()
        self.distance = Distance(length, shift=window)

    def forward(self, position_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # key - query + window is 1 for the farthest visible key, 0 for the nearest hidden one.
        hidden = (1.0 - self.distance(position_ids).clamp(0.0, 1.0)) * MASKED
        return mask + with_itself(hidden, mask)


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
        # Keys after the query are masked; there the bias must not lift them up again.
        distance = self.distance(position_ids).clamp(max=0.0)
        return mask + self.slopes * with_itself(distance, mask)  # type: ignore[operator]


def slopes(heads: int) -> list[float]:
    """One slope a head."""
    power = 2 ** (heads.bit_length() - 1)
    first = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    return first + [2.0 ** (-4 * (i + 1) / power) for i in range(0, 2 * (heads - power), 2)]


def with_itself(history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """In a decode step the mask has one place more than the history: the query's own, at distance 0."""
    if mask.shape[-1] == history.shape[-1]:
        return history
    return torch.cat([history, torch.zeros_like(history[..., :1])], dim=-1)
