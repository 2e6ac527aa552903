"""Mixture of experts without branches: every expert is computed, and those a token did not choose count nothing.

A static graph cannot skip an expert. Their matmuls lie side by side in three wide ones, so that their weights can be
quantised like any other; a decode step reads them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from patches.attention import Source


class DenseExperts(nn.Module):
    """[1, T, H] to [1, T, H]. Old module: `gate` (router, with `top_k` and `routed_scaling_factor`), `experts` (with
    `gate_up_proj` [E, 2 I, H]), `shared_experts`. `gate`, `up` [E * I, H] and `down` [H, E * I] are the experts'."""

    gate: nn.Module
    up: nn.Module
    down: nn.Module

    def __init__(self, old: Any, sources: Mapping[str, Source]) -> None:
        super().__init__()
        count, twice, hidden = old.experts.gate_up_proj.shape
        self.count, self.chosen, self.scale = count, old.gate.top_k, old.gate.routed_scaling_factor
        self.act, self.shared_experts = old.experts.act_fn, old.shared_experts
        self.router = nn.Linear(hidden, count, bias=False, device="meta")
        width = count * twice // 2
        for name, shape in {"gate": (hidden, width), "up": (hidden, width), "down": (width, hidden)}.items():
            self.add_module(name, nn.Linear(*shape, bias=False, device="meta"))

    def forward(self, x: torch.Tensor) -> Any:
        scores = self.router(x).softmax(-1)
        least = scores.topk(self.chosen, dim=-1).values[..., -1:]
        share = torch.where(scores >= least, scores, torch.zeros_like(scores)) * self.scale
        inner = self.act(self.gate(x)) * self.up(x)
        weighed = inner.view(inner.shape[0], -1, self.count, inner.shape[2] // self.count) * share.view(
            inner.shape[0], -1, self.count, 1
        )
        return self.down(weighed.view(inner.shape[0], -1, inner.shape[2])) + self.shared_experts(x)
