"""Multi-head latent attention (DeepSeek-V2, MiniCPM3): the cache holds the latent and one rotated key, no heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from patches.attention import Source, attend, find_step, joined, rope


class LatentAttention(nn.Module):
    """[1, T, H] to [1, T, H]. `k` of the step is the normed latent [1, T, 1, R], `v` the rotated key [1, T, 1, r].

    Modules from `sources`: `q`, or `q_a`, `q_a_norm` and `q_b`; `kv_a` (latent and key at once), `kv_a_norm`; `k_b`
    and `v_b`, which expand the latent to the heads; `out`.
    """

    q: nn.Module
    q_a: nn.Module
    q_a_norm: nn.Module
    q_b: nn.Module
    kv_a: nn.Module
    kv_a_norm: nn.Module
    k_b: nn.Module
    v_b: nn.Module
    out: nn.Module

    def __init__(self, old: Any, sources: Mapping[str, Source]) -> None:
        super().__init__()
        self.latent: int = old.kv_lora_rank
        self.key: int = old.qk_rope_head_dim
        for name, source in sources.items():
            self.add_module(name, joined(old, source))

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        step = find_step(args, kwargs)
        heads = step.sizes.heads
        q = self.q_b(self.q_a_norm(self.q_a(hidden_states))) if hasattr(self, "q_b") else self.q(hidden_states)
        q = q.view(q.shape[0], -1, heads, q.shape[2] // heads)
        split = q.shape[-1] - self.key
        q = torch.cat([q[..., :split], rope(q[..., split:], step.rotary)], dim=-1)
        both = self.kv_a(hidden_states)
        latent = self.kv_a_norm(both[..., : self.latent]).view(both.shape[0], -1, 1, self.latent)
        key = rope(both[..., self.latent :].view(both.shape[0], -1, 1, self.key), step.rotary)
        latent, key = step.extend(latent, key)
        latent = latent.view(both.shape[0], -1, self.latent)
        k, v = (x.view(x.shape[0], -1, heads, x.shape[2] // heads) for x in (self.k_b(latent), self.v_b(latent)))
        k = torch.cat([k, key.expand(-1, -1, heads, -1)], dim=-1)
        return self.out(attend(q, k, v, step)), None
