"""GLM-4.1V's tower as a net of the contract: norms before and behind its blocks, positions that the host gives,
and squares of patches made one before the merger."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from patches.towers import GridTower, TowerSizes


class GlmTower(GridTower):
    def __init__(self, tower: Any, sizes: TowerSizes, places: int) -> None:
        super().__init__(tower, sizes, places)
        self.post_conv_layernorm, self.post_layernorm = tower.post_conv_layernorm, tower.post_layernorm
        weight = tower.downsample.weight
        # Its squares do not overlap, so it is a matmul.
        self.downsample = nn.Linear(weight[0].numel(), weight.shape[0], device="meta")
        self.square = weight.shape[2] * weight.shape[3]

    def _embedded(self, input_states: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
        x: torch.Tensor = self.post_conv_layernorm(self.patch_embed(input_states))
        return x + others.pop()

    def _merged(self, x: torch.Tensor) -> torch.Tensor:
        """The patches of a square lie side by side; the weights have each channel's four together."""
        squares = self.post_layernorm(x)[0].reshape(-1, self.square, x.shape[-1])
        joined = squares.transpose(1, 2).reshape(-1, self.square * x.shape[-1])
        rows: torch.Tensor = self.merger(self.downsample(joined))
        return rows
