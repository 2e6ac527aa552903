"""Attention as the chip wants it: a static mask, only the new step's k and v, q, k and v from one matmul.

Transformers' own doors do most of it: `attn_implementation="eager"` keeps scores + mask + softmax as plain
operations, and `StepCache` stands in for the cache object. Classes with separate q/k/v projections and half-split
rope (Llama, Qwen2) have their forward replaced for speed, by one of two forms. `fused_qkv_forward` saves 5 % of a
decode step's cycles on one device; over several, the compiler would replicate it, and splits
`separate_qkv_forward` instead.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from patches.patch import Patch


class StepCache:
    """A cache of one layer whose history belongs to the caller, in the contract's layout [1, positions, K, D].

    After the layer ran, `k` and `v` hold the new positions only. Without history the layer prefills.
    """

    def __init__(self, history_k: torch.Tensor | None = None, history_v: torch.Tensor | None = None) -> None:
        self.history_k, self.history_v = history_k, history_v
        self.k: torch.Tensor | None = None
        self.v: torch.Tensor | None = None

    def extend(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """New k, v [1, T, K, D] to all that is visible [1, past + T, K, D]."""
        self.k, self.v = k, v
        if self.history_k is None or self.history_v is None:
            return k, v
        return torch.cat([self.history_k, k], dim=1), torch.cat([self.history_v, v], dim=1)

    def update(
        self, k: torch.Tensor, v: torch.Tensor, layer_idx: int = 0, cache_kwargs: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Transformers' cache door: heads before positions, [1, K, T, D]."""
        k, v = self.extend(k.transpose(1, 2), v.transpose(1, 2))
        return k.transpose(1, 2), v.transpose(1, 2)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def fused_qkv_forward(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor,
    past_key_values: StepCache,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """[1, T, H] to [1, T, H]. Needs `self.qkv_proj` in place of q_proj, k_proj, v_proj (exporters' fusions).

    Rope runs over all heads, v included, and v is taken from the raw half: sliced before rope, the compiler
    splits the matmul again.
    """
    kv, heads = self.config.num_key_value_heads, self.config.num_attention_heads
    raw = self.qkv_proj(hidden_states).view(1, hidden_states.shape[1], heads + 2 * kv, self.head_dim)
    roped = rope(raw, position_embeddings)
    k, v = past_key_values.extend(roped[:, :, heads : heads + kv], raw[:, :, heads + kv :])
    return attend(self, roped[:, :, :heads], k, v, attention_mask), None


def separate_qkv_forward(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor,
    past_key_values: StepCache,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """[1, T, H] to [1, T, H] with the projections as they are: the form that the compiler splits over devices."""
    shape = (1, hidden_states.shape[1], -1, self.head_dim)
    q = rope(self.q_proj(hidden_states).view(shape), position_embeddings)
    k = rope(self.k_proj(hidden_states).view(shape), position_embeddings)
    k, v = past_key_values.extend(k, self.v_proj(hidden_states).view(shape))
    return attend(self, q, k, v, attention_mask), None


def rope(x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Half-split rotary embedding of x [1, T, heads, D]; cos and sin are [1, T, D]."""
    cos, sin = (table.unsqueeze(2) for table in tables)
    return x * cos + rotate_half(x) * sin


def attend(self: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> Any:
    """Transformers' own eager attention on tensors [1, T, heads, D], then the output projection."""
    eager = sys.modules[type(self).__module__].eager_attention_forward
    out, _weights = eager(self, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask, self.scaling)
    return self.o_proj(out.reshape(1, q.shape[1], -1))


def fused_qkv(model_type: str, attention_class: str) -> Patch:
    """For one device: one matmul for q, k and v."""
    return _attention_patch(model_type, attention_class, fused_qkv_forward, "one matmul for q, k and v")


def separate_qkv(model_type: str, attention_class: str) -> Patch:
    """For several devices: the form whose attention is split instead of replicated."""
    return _attention_patch(model_type, attention_class, separate_qkv_forward, "rope before any transpose")


def _attention_patch(model_type: str, attention_class: str, forward: Any, reason: str) -> Patch:
    target = f"transformers.models.{model_type}.modeling_{model_type}:{attention_class}.forward"
    return Patch(target, forward, reason)


def fuse_linears(layer: nn.Module, into: str, parts: tuple[str, ...]) -> None:
    """Replace the linear modules at paths `parts` by one at path `into`, their outputs one after the other."""
    linears: list[Any] = [layer.get_submodule(part) for part in parts]
    weight = torch.cat([linear.weight.detach() for linear in linears])
    state = {"weight": weight}
    if linears[0].bias is not None:
        state["bias"] = torch.cat([linear.bias.detach() for linear in linears])
    fused = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in state, device="meta")
    fused.load_state_dict(state, assign=True)
    layer.set_submodule(into, fused)
    for part in parts:
        parent, _, name = part.rpartition(".")
        delattr(layer.get_submodule(parent), name)
