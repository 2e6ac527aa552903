"""Test fixture: the resampler in the shape of MiniCPM-V 2.6's file, written for these tests.

Same as in the published file: imports, class names, parameter names (among them torch's joint in_proj_weight, and a
projection at the end that is no module), forward signature, the table of sines that grows for larger grids, and which
half of it tells columns. Different: attention is torch's own forward, where the published file has it written out
around an out_proj of another class.
"""

from functools import partial
from typing import Optional, Tuple  # noqa: F401, UP035

import numpy as np
import torch
from torch import Tensor, nn  # noqa: F401
from torch.nn.init import trunc_normal_  # noqa: F401
from transformers.integrations import is_deepspeed_zero3_enabled


def get_2d_sincos_pos_embed(embed_dim, image_size):
    down, across = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in image_size), indexing="ij")
    return np.concatenate([_sines(embed_dim // 2, places) for places in (across, down)], axis=-1)


def _sines(size, places):
    omega = 1.0 / 10000 ** (np.arange(size // 2, dtype=np.float32) / (size / 2.0))
    turns = places[..., None] * omega
    return np.concatenate([np.sin(turns), np.cos(turns)], axis=-1)


class Resampler(nn.Module):
    def __init__(
        self,
        num_queries,
        embed_dim,
        num_heads,
        kv_dim=None,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),  # noqa: B008
        adaptive=False,
        max_size=(70, 70),
    ):
        super().__init__()
        self.num_queries = num_queries
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.adaptive = adaptive
        self.max_size = max_size
        self.query = nn.Parameter(torch.zeros(self.num_queries, embed_dim))
        same = kv_dim is None or kv_dim == embed_dim
        self.kv_proj = nn.Identity() if same else nn.Linear(kv_dim, embed_dim, bias=False)
        self.attn = MultiheadAttention(embed_dim, num_heads)
        self.ln_q = norm_layer(embed_dim)
        self.ln_kv = norm_layer(embed_dim)
        self.ln_post = norm_layer(embed_dim)
        self.proj = nn.Parameter((embed_dim**-0.5) * torch.randn(embed_dim, embed_dim))
        self._set_2d_pos_cache(self.max_size)

    def _set_2d_pos_cache(self, max_size, device="cpu"):
        if is_deepspeed_zero3_enabled():
            device = "cuda"
        table = torch.from_numpy(get_2d_sincos_pos_embed(self.embed_dim, max_size)).float().to(device)
        self.register_buffer("pos_embed", table, persistent=False)

    def _adjust_pos_cache(self, tgt_sizes, device):
        high, wide = torch.max(tgt_sizes[:, 0]), torch.max(tgt_sizes[:, 1])
        if high > self.max_size[0] or wide > self.max_size[1]:
            self.max_size = [max(high, self.max_size[0]), max(wide, self.max_size[1])]
            self._set_2d_pos_cache(self.max_size, device)

    def forward(self, x, tgt_sizes=None):
        batch = x.shape[0]
        lengths = tgt_sizes[:, 0] * tgt_sizes[:, 1]
        self._adjust_pos_cache(tgt_sizes, device=x.device)
        padding = torch.zeros((batch, torch.max(lengths)), dtype=torch.bool, device=x.device)
        places = []
        for row in range(batch):
            high, wide = tgt_sizes[row]
            places.append(self.pos_embed[:high, :wide, :].reshape((high * wide, -1)).to(x.dtype))
            padding[row, lengths[row] :] = True
        places = torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=0.0).permute(1, 0, 2)
        x = self.ln_kv(self.kv_proj(x)).permute(1, 0, 2)
        queries = self._repeat(self.ln_q(self.query), batch)
        out = self.attn(queries, x + places, x, key_padding_mask=padding)[0].permute(1, 0, 2)
        return self.ln_post(out) @ self.proj

    def _repeat(self, query, N: int):
        return query.unsqueeze(1).repeat(1, N, 1)


class MultiheadAttention(nn.MultiheadAttention):
    pass
