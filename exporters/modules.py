"""The nets of a decoder as torch modules, with exactly the inputs and outputs of contract.graphs.

Thin wrappers over Hugging Face's own modules; everything here is float32 and int32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from contract.graphs import SAMPLE_CANDIDATES
from patches.attention import StepCache


class Embedding(nn.Module):
    """input_ids [1, T] int32 to [1, T, H]."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.table(input_ids)


class Block(nn.Module):
    """One layer over a whole prompt, or, given a history, over one step.

    Rotary tables cover the built length; they are looked up by position, so position_ids is a real input.
    """

    def __init__(self, layer: nn.Module, cos: torch.Tensor, sin: torch.Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(
        self,
        input_states: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        history_k: torch.Tensor | None = None,
        history_v: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        cache = StepCache(history_k, history_v)
        look_up = nn.functional.embedding
        rotary = (look_up(position_ids, self.cos), look_up(position_ids, self.sin))  # type: ignore[arg-type]
        out = self.layer(
            input_states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            position_embeddings=rotary,
        )
        return (out[0] if isinstance(out, tuple) else out), cache.k, cache.v


class LmHead(nn.Module):
    """Final norm, then `x @ W` with W [H, V]: with the weight on the left the compiler is 1.5 times slower."""

    def __init__(self, norm: nn.Module, weight: torch.Tensor, top1: str | None) -> None:
        """`weight` [V, H] as the checkpoint has it. `top1`: "argmax", "topk" or None for logits."""
        super().__init__()
        self.norm = norm
        self.head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.head.load_state_dict({"weight": weight}, assign=True)
        self.top1 = top1

    def forward(self, hidden_states: torch.Tensor) -> Any:
        logits = self.head(self.norm(hidden_states))
        if self.top1 is None:
            return logits
        return logits.argmax(-1, keepdim=True) if self.top1 == "argmax" else logits.topk(1)[1]


class GreedyHead(nn.Module):
    """m_logits [1, V] to token_id [1, 1]."""

    def forward(self, m_logits: torch.Tensor) -> Any:
        return m_logits.topk(1)[1]


class SampleHead(nn.Module):
    """Hugging Face's processors in their order (penalty, temperature, top-k, top-p) over the likeliest candidates.

    Returns probabilities and ids, [1, candidates] each. A candidate that was filtered out has probability 0.
    top_k above the number of candidates counts as all of them.
    """

    def forward(
        self,
        m_logits: torch.Tensor,
        input_ids: torch.Tensor,
        penalty: torch.Tensor,
        temperature: torch.Tensor,
        top_k: torch.Tensor,
        top_p: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ids = input_ids.long()
        seen = m_logits.gather(1, ids)
        penalised = torch.where(seen < 0, seen * penalty, seen / penalty)
        logits = m_logits.scatter(1, ids, penalised)
        count = min(SAMPLE_CANDIDATES, m_logits.shape[1])
        values, token_idx = logits.topk(count)
        values = values / temperature
        # float ranks: the chip compares floats; -1000 stands for minus infinity, as in the vendor's head.
        rank = torch.arange(count, dtype=torch.float32)[None]
        values = torch.where(rank < top_k.float(), values, torch.full_like(values, -1000.0))
        probs = values.softmax(-1)
        # A candidate stays while the probability before it is below top_p: the one that crosses it is kept.
        before = probs.cumsum(-1) - probs
        values = torch.where(before < top_p, values, torch.full_like(values, -1000.0))
        return values.softmax(-1), token_idx
