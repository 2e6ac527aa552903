"""Attention as the chip wants it: a static mask, only the new step's k and v, one matmul where that is faster.

A layer's attention module gives way to `Attention`, in our own copy of the layer: no class and no file is changed.
On one device q, k and v come from one matmul, which saves 5 % of a decode step's cycles; over several the compiler
would replicate that, and splits three separate ones instead (exporters.parts chooses).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn


class Sizes(Protocol):
    """What attention needs to know of a decoder (exporters.spec.DecoderSpec has it)."""

    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def attention_scale(self) -> float: ...
    @property
    def attention_softcap(self) -> float | None: ...


class Source(Protocol):
    """Modules of the old attention whose rows make one of ours (exporters.architecture.Source)."""

    @property
    def parts(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> tuple[tuple[int, int, int], ...]: ...


@dataclass
class Step:
    """All that one run of a layer is given beside the hidden states [N, T, H]: of one conversation, or, in a decode
    step (T = 1), of N. Every first size below that is 1 is N then.

    It travels as the cache argument, whatever a model calls that. `rotary`: cos and sin [1, T, rotary size], and
    `turned_last` where the net computes them (`rope`).
    `stretch` [1, T, 1]: a factor on q.
    `mask` is added to the scores: [1, 1 or heads, T, past + T]; without one all see all. The history belongs to the
    caller, in the contract's layout [1, past, K, D]; without it the layer prefills. After the run `k` and `v` hold the
    new positions only.
    """

    sizes: Sizes
    mask: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    turned_last: bool = False
    stretch: torch.Tensor | None = None
    history_k: torch.Tensor | None = None
    history_v: torch.Tensor | None = None
    k: torch.Tensor | None = None
    v: torch.Tensor | None = None

    def extend(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """New k, v [1, T, K, D] to all that is visible [1, past + T, K, D]."""
        self.k, self.v = k, v
        if self.history_k is None or self.history_v is None:
            return k, v
        return torch.cat([self.history_k, k], dim=1), torch.cat([self.history_v, v], dim=1)


class Attention(nn.Module):
    """[1, T, H] to [1, T, H] by the modules that `sources` names: `qkv`, or `q` and `kv`, or `q`, `k` and `v`; then
    `out`; `q_norm` and `k_norm` where the model has them."""

    qkv: nn.Module
    q: nn.Module
    kv: nn.Module
    k: nn.Module
    v: nn.Module
    out: nn.Module
    k_norm: nn.Module

    def __init__(self, old: nn.Module, sources: Mapping[str, Source]) -> None:
        super().__init__()
        for name, source in sources.items():
            self.add_module(name, joined(old, source))

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        step = find_step(args, kwargs)
        q, k, v = self._project(hidden_states, step)
        if step.stretch is not None:
            q = q * step.stretch.unsqueeze(2)
        k, v = step.extend(k, v)
        return self.out(attend(q, k, v, step)), None

    def _project(self, x: torch.Tensor, step: Step) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k and v [1, T, heads, D].

        Of a joint matmul v is taken from the raw half, and k only after its norm, or without one after rope, which run
        over v as well: sliced before, k and v are two matmuls to the compiler again, and it copies the whole history of
        v at every step (13 % of a layer's decode in Qwen3-0.6B's sizes, int4).
        """
        heads, kv = step.sizes.heads, step.sizes.kv_heads
        if hasattr(self, "qkv"):
            raw = split(self.qkv(x), step)
            roped = turned(raw, step)
            return roped[:, :, :heads], roped[:, :, heads : heads + kv], raw[:, :, heads + kv :]
        if hasattr(self, "kv"):
            raw = split(self.kv(x), step)  # before q, which saves 82,000 cycles at 1024 positions
            q = turned(self._normed("q_norm", split(self.q(x), step)), step)
            normed = hasattr(self, "k_norm")
            k = turned(self.k_norm(raw)[:, :, :kv], step) if normed else turned(raw, step)[:, :, :kv]
            return q, k, raw[:, :, kv:]
        q = self._normed("q_norm", split(self.q(x), step))
        k, v = self._normed("k_norm", split(self.k(x), step)), split(self.v(x), step)
        return turned(q, step), turned(k, step), v

    def _normed(self, norm: str, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, norm)(x) if hasattr(self, norm) else x


class CachedAttention(Attention):
    """For layers that take three things from their attention, the cache as the last."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None, Step]:  # type: ignore[override]
        return *super().forward(hidden_states, *args, **kwargs), find_step(args, kwargs)


def split(x: torch.Tensor, step: Step) -> torch.Tensor:
    """[1, T, heads * D] to [1, T, heads, D]. The number of positions is the one that stays open, in every reshape
    here: a dynamic net gets others than it was traced with."""
    return x.view(x.shape[0], -1, x.shape[2] // step.sizes.head_dim, step.sizes.head_dim)


def find_step(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Step:
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Step))


def turned(x: torch.Tensor, step: Step) -> torch.Tensor:
    return rope(x, step.rotary, step.turned_last)


def rope(x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor] | None, turned_last: bool = False) -> torch.Tensor:
    """Half-split rotary embedding of x [1, T, heads, D]; cos and sin are [1, T, R], and R may be less than D.

    `turned_last`: times sine, then turned: the same, since both halves of sine are alike. Where the net computes its
    tables, the compiler would turn x before it makes them, write that out and read it again.
    """
    if tables is None:
        return x
    cos, sin = (table.unsqueeze(2) for table in tables)
    size = cos.shape[-1]
    part = x if size == x.shape[-1] else x[..., :size]
    roped = part * cos + (rotate_half(part * sin) if turned_last else rotate_half(part) * sin)
    return roped if part is x else torch.cat([roped, x[..., size:]], dim=-1)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, step: Step) -> torch.Tensor:
    """Attention on [1, T, heads, D] to [1, T, heads * D], in the form that the compiler turns into one operation:
    scale after q·k, then scores + mask (not mask + scores), and k and v repeated by expand."""
    q, k, v = (x.transpose(1, 2) for x in (q, repeated(k, q.shape[2]), repeated(v, q.shape[2])))
    scores = torch.matmul(q, k.transpose(2, 3)) * step.sizes.attention_scale
    if cap := step.sizes.attention_softcap:
        scores = torch.tanh(scores / cap) * cap
    # The fused operation knows one mask for all heads, and takes the first of several: these are kept from it.
    if step.mask is not None:
        scores = scores + step.mask if step.mask.shape[1] == 1 else step.mask + scores
    weights = torch.softmax(scores, dim=-1)
    return torch.matmul(weights, v).transpose(1, 2).reshape(q.shape[0], -1, q.shape[1] * v.shape[3])


def repeated(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[1, T, K, D] to [1, T, heads, D], each KV head as often as q heads share it."""
    kv = x.shape[2]
    if kv == heads:
        return x
    x = x[:, :, :, None].expand(-1, -1, -1, heads // kv, -1)
    return x.reshape(x.shape[0], -1, heads, x.shape[4])


def joined(old: nn.Module, source: Source) -> nn.Module:
    """The old module itself, or a linear module on the meta device with the shape of `source`."""
    parts: list[Any] = [old.get_submodule(part) for part in source.parts]
    if len(parts) == 1 and not source.rows:
        return parts[0]  # type: ignore[no-any-return]
    rows = sum(len(range(*r)) for r in source.rows) or sum(part.weight.shape[0] for part in parts)
    return nn.Linear(parts[0].weight.shape[1], rows, bias=parts[0].bias is not None, device="meta")
