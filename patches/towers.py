"""Vision towers as nets of the contract: Hugging Face's own blocks and mergers over a static number of patches."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from patches.attention import Attention, Sizes, Step


class TowerSizes(Sizes, Protocol):
    """What a tower's net needs to know (exporters.vision.VisionSpec has it)."""

    @property
    def full(self) -> tuple[int, ...]: ...
    @property
    def window(self) -> int: ...
    @property
    def deepstack(self) -> tuple[int, ...]: ...
    @property
    def table(self) -> int: ...


class TowerAttention(Attention):
    """For blocks that take one thing from their attention."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        return super().forward(hidden_states, *args, **kwargs)[0]


class Patches(nn.Module):
    """[N, values] to [N, hidden]: `convolution` sees each pixel once, so it is a matmul."""

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        weight = convolution.weight
        self.proj = nn.Linear(weight[0].numel(), weight.shape[0], bias=convolution.bias is not None, device="meta")

    def forward(self, patches: torch.Tensor) -> Any:
        return self.proj(patches)


class GridTower(nn.Module):
    """Inputs and outputs of contract.towers.vit, for a free grid of patches.

    `tower`: Hugging Face's, on the meta device, with its attention swapped; its modules keep their names. cos and sin
    [places, D / 4] are looked up by row and by column.
    """

    def __init__(self, tower: Any, sizes: TowerSizes, places: int) -> None:
        super().__init__()
        self.patch_embed = Patches(tower.patch_embed.proj)
        self.blocks, self.merger, self.sizes = tower.blocks, tower.merger, sizes
        self.pos_embed = getattr(tower, "pos_embed", None)
        self.deepstack_merger_list = getattr(tower, "deepstack_merger_list", None)
        rotary = type(tower.rotary_pos_emb)(tower.config)  # on the CPU, with buffers that its constructor computes
        both = torch.arange(places)[:, None].expand(-1, 2)
        for name, values in zip(("cos", "sin"), rotary(torch.zeros(1), both), strict=True):
            self.register_buffer(name, values[:, : values.shape[1] // 4], persistent=False)

    def forward(self, input_states: torch.Tensor, position_ids: torch.Tensor, *rest: torch.Tensor) -> Any:
        others = list(rest)
        x = self._embedded(input_states, others)
        rotary = self._rotary(position_ids)
        masks = [others.pop(0)] * 2
        if self.sizes.window:
            masks[1] = others.pop(0)
        x, outputs = x[None], []
        for number, block in enumerate(self.blocks):
            inside = self.sizes.window and number not in self.sizes.full
            step = Step(self.sizes, masks[1 if inside else 0], position_ids, rotary)
            x = block(x, cu_seqlens=None, position_embeddings=step)
            if number in self.sizes.deepstack:
                outputs.append(self.deepstack_merger_list[self.sizes.deepstack.index(number)](x))  # type: ignore[index]
        rows = self._merged(x)
        if self.sizes.window:
            rows = nn.functional.embedding(others.pop(0), rows)
        return (rows, *outputs) if outputs else rows

    def _embedded(self, input_states: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
        """Patches to what the first block takes, [N, H]; of the `others` it takes what it needs, from either end."""
        x: torch.Tensor = self.patch_embed(input_states)
        if self.pos_embed is not None:
            indices, weights = others.pop(0), others.pop(0)
            x = x + (self.pos_embed(indices) * weights).sum(1)
        return x

    def _merged(self, x: torch.Tensor) -> torch.Tensor:
        """What the last block gives, [1, N, H], to rows."""
        rows: torch.Tensor = self.merger(x)
        return rows

    def _rotary(self, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [1, N, D], half-split: the columns of the row, those of the column, and both again."""

        def look_up(table: torch.Tensor) -> torch.Tensor:
            found = nn.functional.embedding(position_ids, table).reshape(1, -1, 2 * table.shape[1])
            return torch.cat([found, found], dim=-1)

        return look_up(self.cos), look_up(self.sin)  # type: ignore[arg-type]
