"""Rotary tables from a model's own rotary module, whatever it gives: cos and sin, float32 [length, size], half-split.

Each function takes the module, its config's name for the kind of layer ("" where there is one kind), and the length
of the sequence that the tables are for: rope of some models depends on it.
"""

from __future__ import annotations

from typing import Any

import torch

Tables = tuple[torch.Tensor, torch.Tensor]


def plain(module: Any, layer_type: str, length: int) -> Tables:
    """Transformers' usual door: module(x, position_ids)."""
    cos, sin = module(torch.zeros(1), torch.arange(length)[None])
    return cos[0], sin[0]


def by_layer_type(module: Any, layer_type: str, length: int) -> Tables:
    """Gemma 3: a rope base for each kind of layer."""
    cos, sin = module(torch.zeros(1), torch.arange(length)[None], layer_type)
    return cos[0], sin[0]


def complex_pairs(module: Any, layer_type: str, length: int) -> Tables:
    """DeepSeek-V2: one complex number for each pair of channels."""
    turns = module(torch.zeros(1), torch.arange(length)[None])[0]
    return torch.cat([turns.real] * 2, dim=-1), torch.cat([turns.imag] * 2, dim=-1)


def stacked(one: Any, length: int, switches: tuple[int, ...]) -> Tables:
    """Tables of a model whose rope depends on the length of the sequence: a block of `length` rows for each regime.

    `one(n)`: the tables of a sequence of n positions. Regime r holds for sequences up to switches[r], the last up to
    `length`. Position p of a sequence in regime r reads row r * length + p. A block's rows beyond its own regime are
    the next regime's, for callers who know one position only.
    """
    ends = (*switches, length)
    regimes = [one(end) for end in ends]
    blocks: list[Tables] = []
    for start in range(len(regimes)):
        rows: list[Tables] = []
        for (cos, sin), end in zip(regimes[start:], ends[start:], strict=True):
            done = sum(len(c) for c, _ in rows)
            rows.append((cos[done:end], sin[done:end]))
        blocks.append((torch.cat([c for c, _ in rows]), torch.cat([s for _, s in rows])))
    return torch.cat([c for c, _ in blocks]), torch.cat([s for _, s in blocks])
