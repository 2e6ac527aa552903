"""Rotary tables from a model's own rotary module, whatever it gives: cos and sin, float32 [length, size], half-split.

Each function takes the module, its config's name for the kind of layer ("" where there is one kind), and the length
of the sequence that the tables are for: rope of some models depends on it.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Tables = tuple[torch.Tensor, torch.Tensor]


def plain(module: Any, layer_type: str, length: int) -> Tables:
    """Transformers' usual door: module(x, position_ids)."""
    cos, sin = module(torch.zeros(1), torch.arange(length)[None])
    return cos[0], sin[0]


def by_layer_type(module: Any, layer_type: str, length: int) -> Tables:
    """Gemma 3: a rope base for each kind of layer."""
    cos, sin = module(torch.zeros(1), torch.arange(length)[None], layer_type)
    return cos[0], sin[0]


def by_axis(module: Any, layer_type: str, length: int, places: torch.Tensor | None = None) -> Tables:
    """M-RoPE: positions [3, 1, length], here alike in time, height and width, as in text, unless `places` says others.
    The first half of the columns, which the second repeats (`Chosen`)."""
    alike = torch.arange(length)[None, None].expand(3, -1, -1)
    cos, sin = module(torch.zeros(1), alike if places is None else places)
    half = cos.shape[-1] // 2
    return cos.reshape(length, -1)[:, :half], sin.reshape(length, -1)[:, :half]


def pairs_by_axis(module: Any, layer_type: str, length: int, places: torch.Tensor | None = None) -> Tables:
    """The same of a module whose columns lie side by side with those that repeat them (GLM-4.1V)."""

    def sorted_halves(*given: torch.Tensor) -> Tables:
        cos, sin = (torch.cat([t[..., ::2], t[..., 1::2]], dim=-1) for t in module(*given))
        return cos, sin

    return by_axis(sorted_halves, layer_type, length, places)


def columns_by_axis(tables: Callable[..., Tables], module: Any) -> torch.Tensor:
    """M-RoPE: which axis turns which columns of `tables`, float32 [3, size / 2], 1 or 0: a column's sine is not 0
    where its own axis alone stands at position 1."""
    alone = torch.eye(3, dtype=torch.long)[:, None]  # [position of each axis, 1, sequence]
    return (tables(module, "", 3, alone)[1] != 0).float()


class Chosen(nn.Module):
    """M-RoPE: rows of a table for each axis, [axes, T, size / 2], to the one [1, T, size] that has of each its own
    columns, twice. `columns` as by `columns_by_axis`.

    Columns that lie in a few blocks (Qwen2-VL) are cut out, which needs no table of its own; those that take turns
    (Qwen3-VL) are added up, one by one: a sum over the axes takes 80,000 cycles more at 1024 positions. Each axis has a
    buffer of its own, and each table its own module: of weights that are sliced, or used twice, the compiler makes
    others, and layers would not share their mlir (compile.rebind).
    """

    def __init__(self, columns: torch.Tensor) -> None:
        super().__init__()
        owners = columns.argmax(0).tolist()
        starts = [i for i, owner in enumerate(owners) if i == 0 or owner != owners[i - 1]]
        ends = [*starts[1:], len(owners)]
        self.blocks = [(owners[start], start, end) for start, end in zip(starts, ends, strict=True)]
        self.turns = len(starts) > len(columns)
        for axis, own in enumerate(columns if self.turns else ()):
            self.register_buffer(f"columns_{axis}", own[None, None])

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        if self.turns:
            first, *others = (found[i : i + 1] * getattr(self, f"columns_{i}") for i in range(found.shape[0]))
            half = sum(others, first)
        else:
            half = torch.cat([found[axis : axis + 1, :, start:end] for axis, start, end in self.blocks], dim=-1)
        return torch.cat([half, half], dim=-1)


def complex_pairs(module: Any, layer_type: str, length: int) -> Tables:
    """DeepSeek-V2: one complex number for each pair of channels."""
    turns = module(torch.zeros(1), torch.arange(length)[None])[0]
    return torch.cat([turns.real] * 2, dim=-1), torch.cat([turns.imag] * 2, dim=-1)


def whole(module: Any, layer_type: str, length: int) -> Tables:
    """Baichuan, InternLM2: module(x, seq_len), or, in later files, module(x, position_ids)."""
    module = copy.deepcopy(module)  # dynamic rope goes on with the frequencies of the longest sequence it has seen
    by_length = "seq_len" in inspect.signature(module.forward).parameters
    cos, sin = module(torch.zeros(1), length if by_length else torch.arange(length)[None])
    return cos.reshape(length, -1), sin.reshape(length, -1)


def stacked_pairs(module: Any, layer_type: str, length: int) -> Tables:
    """ChatGLM: cos and sin of each pair of channels, [length, size / 2, 2]."""
    cos, sin = module(length).unbind(-1)
    return torch.cat([cos] * 2, dim=-1), torch.cat([sin] * 2, dim=-1)


def ntk(model: Any, layer_type: str, length: int, rows: int) -> Tables:
    """Qwen: `rows` rows, by the frequencies of a prompt of `length`. Older files have a rotary module in each layer,
    all alike, which gives angles; in later ones it is the model's, and gives cos and sin."""
    module = next(m for name, m in model.named_modules() if name.endswith("rotary_emb"))
    doublings = math.ceil(math.log2(length / model.config.seq_length)) if model.config.use_dynamic_ntk else 0
    found = module(rows, ntk_alpha=max(2 ** (doublings + 1) - 1, 1))
    cos, sin = found if isinstance(found, list) else (found.cos(), found.sin())
    return cos[0, :, 0], sin[0, :, 0]


def logn(trained: int, length: int) -> torch.Tensor:
    """Qwen's factors on q, [length, 1]: 1 up to `trained` positions, then log(i) / log(trained) at the i-th."""
    return torch.tensor([[max(math.log(i, trained), 1.0)] for i in range(1, length + 1)])


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


def stacked_whole(one: Any, length: int, switches: tuple[int, ...]) -> Tables:
    """The same where a conversation keeps the tables of its prompt: every row of a block is its own regime's.

    `one(n, rows)`: `rows` rows of the tables of a prompt of n positions.
    """
    regimes = [one(end, length) for end in (*switches, length)]
    return torch.cat([cos for cos, _ in regimes]), torch.cat([sin for _, sin in regimes])
