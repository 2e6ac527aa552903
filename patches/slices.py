"""MiniCPM-V's tower and resampler as a net of the contract: any grid of at most N patches to a fixed number of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from patches.attention import Step, attend
from patches.pictures import Heads
from patches.towers import Patches, TowerSizes


class SliceTower(nn.Module):
    """`model`: the checkpoint's, on the meta device, with its tower's attention swapped. Its modules keep their names;
    the resampler's q, k and v are three matmuls, since each is of other states."""

    def __init__(self, model: Any, sizes: TowerSizes, places: int) -> None:
        super().__init__()
        self.vpm, self.resampler, self.sizes = model.vpm, model.resampler, sizes
        embeddings, resampler = self.vpm.embeddings, self.resampler
        embeddings.patch_embedding = Patches(embeddings.patch_embedding).proj
        size, channels = resampler.embed_dim, resampler.attn.head_dim
        self.heads = Heads(size // channels, channels, channels**-0.5)
        self.q, self.k, self.v = (nn.Linear(size, size, device="meta") for _ in range(3))
        for name in ("in_proj_weight", "in_proj_bias"):
            delattr(resampler.attn, name)
        side = sizes.table
        self.register_buffer("places", resampler.pos_embed[:side, :side].flatten(0, 1), persistent=False)
        del resampler.pos_embed

    def forward(
        self,
        input_states: torch.Tensor,
        pos_ids: torch.Tensor,
        attn_mask: torch.Tensor,
        pos_embed_ids: torch.Tensor,
        resampler_attn_mask: torch.Tensor,
    ) -> torch.Tensor:
        """[N, values], [N], [1, 1, N, N], [N], [1, 1, rows, N] to [rows, H]."""
        embeddings = self.vpm.embeddings
        states = (embeddings.patch_embedding(input_states) + embeddings.position_embedding(pos_ids))[None]
        for layer in self.vpm.encoder.layers:
            states = layer(states, Step(self.sizes, attn_mask))[0]
        states = self.vpm.post_layernorm(states)
        places = nn.functional.embedding(pos_embed_ids, self.places)  # type: ignore[arg-type]
        return self._resampled(states, places, resampler_attn_mask)

    def _resampled(self, states: torch.Tensor, places: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[1, N, hidden], [N, H] and [1, 1, rows, N] to [rows, H]."""
        resampler = self.resampler
        states = resampler.ln_kv(resampler.kv_proj(states))
        q, k, v = self.q(resampler.ln_q(resampler.query)[None]), self.k(states + places), self.v(states)
        q, k, v = (x.view(1, -1, self.heads.heads, self.heads.head_dim) for x in (q, k, v))
        out = resampler.attn.out_proj(attend(q, k, v, Step(self.heads, mask)))
        rows: torch.Tensor = resampler.ln_post(out) @ resampler.proj
        return rows[0]
