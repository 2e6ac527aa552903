"""The nets of a decoder as torch modules, with exactly the inputs and outputs of contract.graphs.

Thin wrappers over Hugging Face's own modules; everything here is float32 and int32.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from contract.graphs import SAMPLE_CANDIDATES
from patches.attention import Sizes, Step
from patches.rotary import Chosen


class Embedding(nn.Module):
    """input_ids [1, T] int32 to [1, T, H]. `weight` [V, H]."""

    def __init__(self, weight: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.table = nn.Embedding(weight.shape[0], weight.shape[1], device="meta")
        self.table.load_state_dict({"weight": weight}, assign=True)
        self.scale = scale

    def forward(self, input_ids: torch.Tensor) -> Any:
        states = self.table(input_ids)
        return states if self.scale == 1 else states * self.scale


class Block(nn.Module):
    """One layer over a whole prompt of at most `length` positions, or, given a history, over one step, of one
    conversation or of several.

    `rotary`: cos and sin [rows, size], looked up by position, so position_ids is a real input. `stretch` [rows, 1]:
    factors on q, looked up likewise. `mask`: what else decides which positions are seen (patches.positions).
    `positions` [S, H]: learned positions, added to the input. `columns` [axes, size]: 1 where an axis of M-RoPE turns a
    column of the tables, which are halves then, else 0. `lora`: paths of the layer's LowRank modules.
    """

    def __init__(
        self,
        layer: nn.Module,
        sizes: Sizes,
        length: int,
        rotary: tuple[torch.Tensor, torch.Tensor] | None,
        mask: nn.Module | None = None,
        positions: torch.Tensor | None = None,
        stretch: torch.Tensor | None = None,
        columns: torch.Tensor | None = None,
        lora: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.layer, self.sizes, self.mask, self.lora = layer, sizes, mask, lora
        self.names = set(inspect.signature(layer.forward).parameters)
        self.register_buffer("cos", rotary and rotary[0])
        self.register_buffer("sin", rotary and rotary[1])
        self.register_buffer("stretch", stretch)
        self.chosen = None if columns is None else nn.ModuleList(Chosen(columns) for _ in ("cos", "sin"))
        self.positions = positions if positions is None else nn.Parameter(positions, requires_grad=False)
        # Every block of the contract takes position_ids; where a layer has no use for them, they look up zeros.
        unused = rotary is None and mask is None and positions is None
        self.register_buffer("zeros", torch.zeros(length, 1) if unused else None)

    def forward(
        self,
        input_states: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *rest: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """`rest`: history_k and history_v, where there is a history; then a and b of each of `lora`."""
        look_up, end = nn.functional.embedding, len(rest) - 2 * len(self.lora)
        for path, a, b in zip(self.lora, rest[end::2], rest[end + 1 :: 2], strict=True):
            module: Any = self.layer.get_submodule(path)
            module.a, module.b = a, b
        history_k, history_v = rest[:end] if end else (None, None)
        step = Step(self.sizes, attention_mask, position_ids, history_k=history_k, history_v=history_v)
        if self.cos is not None:
            found = look_up(position_ids, self.cos), look_up(position_ids, self.sin)  # type: ignore[arg-type]
            step.rotary = found if self.chosen is None else (self.chosen[0](found[0]), self.chosen[1](found[1]))
            step.turned_last = self.chosen is not None
        if self.stretch is not None:
            step.stretch = look_up(position_ids, self.stretch)  # type: ignore[arg-type]
        if self.mask is not None:
            step.mask = self.mask(position_ids, attention_mask)
        if self.zeros is not None:
            zeros = look_up(position_ids, self.zeros)  # type: ignore[arg-type]
            step.mask = attention_mask + (zeros if zeros.shape[0] == 1 else zeros[:, None])
        if self.positions is not None:
            input_states = input_states + look_up(position_ids, self.positions)
        out = self.layer(input_states, **self._arguments(step))
        return (out[0] if isinstance(out, tuple) else out), step.k, step.v

    def _arguments(self, step: Step) -> dict[str, Any]:
        """The layer's own names for what it takes; the step is its cache, whatever it calls that."""
        known: dict[str, Any] = {
            "attention_mask": step.mask,
            "position_ids": step.position_ids,
            "use_cache": True,
            **dict.fromkeys(("past_key_values", "past_key_value", "layer_past", "kv_cache"), step),
            **dict.fromkeys(("position_embeddings", "rotary_pos_emb", "rotary_pos_emb_list"), step.rotary),
            "alibi": None,
        }
        return {name: value for name, value in known.items() if name in self.names}


class LmHead(nn.Module):
    """Final norm, then `x @ W` with W [H, V]: with the weight on the left the compiler is 1.5 times slower."""

    def __init__(
        self, norm: nn.Module, weight: torch.Tensor, top1: str | None, scale: float = 1.0, softcap: float | None = None
    ) -> None:
        """`weight` [V, H] as the checkpoint has it. `top1`: "argmax", "topk" or None for logits. `scale`: a factor on
        the normed state. `softcap`: c in c * tanh(logits / c), which changes no argmax and is left out of one."""
        super().__init__()
        self.scale, self.softcap = scale, softcap
        self.norm = norm
        self.head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.head.load_state_dict({"weight": weight}, assign=True)
        self.top1 = top1

    def forward(self, hidden_states: torch.Tensor) -> Any:
        states = self.norm(hidden_states)
        logits = self.head(states if self.scale == 1 else states * self.scale)
        if self.top1 is None:
            return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap
        return logits.argmax(-1, keepdim=True) if self.top1 == "argmax" else logits.topk(1)[1]


class Add(nn.Module):
    """Two flat vectors to their sum."""

    def forward(self, input0: torch.Tensor, input1: torch.Tensor) -> torch.Tensor:
        return input0 + input1


class GreedyHead(nn.Module):
    """m_logits [1, V] to token_id [1, 1]."""

    def forward(self, m_logits: torch.Tensor) -> Any:
        return m_logits.topk(1)[1]


class SampleHead(nn.Module):
    """Hugging Face's processors in their order (penalty, temperature, top-k, top-p) over the likeliest candidates.

    Returns probabilities and ids, [1, candidates] each. A candidate that was filtered out has probability 0.
    top_k above the number of candidates counts as all of them; of equals at the last place, some are no candidates.
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
        # float ranks: the chip compares floats. What equals the k-th is kept, as Hugging Face keeps it.
        rank = torch.arange(count, dtype=torch.float32)[None]
        kth = torch.where(rank < top_k.float(), values, values[:, :1]).amin(-1, keepdim=True)
        probs = self._among(values.softmax(-1), values >= kth)
        # A candidate stays while the probability before it is below top_p: the one that crosses it is kept.
        return self._among(probs, probs.cumsum(-1) - probs < top_p), token_idx

    def _among(self, probs: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Probabilities where only these are left. The vendor's head puts logits of -1000 in the others' place, which
        is more than what logits below 0 become at low temperatures."""
        left = torch.where(kept, probs, torch.zeros_like(probs))
        return left / left.sum(-1, keepdim=True)
