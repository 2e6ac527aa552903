"""What models with multi-head latent attention share: sizes, and the rows of their projections. No torch here.

The cache holds, per position, the latent as one k head and the rotated key as one v head (contract.graphs).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

from exporters.architecture import Source, Swap
from exporters.rows import Rows, half_split, merged
from exporters.spec import DecoderSpec, rope_of


def latent_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of DecoderSpec, and `attention_parameters`, the weights of one layer's attention."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    latent, key = config["kv_lora_rank"], config["qk_rope_head_dim"]
    value = config.get("v_head_dim") or hidden // heads  # MiniCPM3 leaves it out
    plain, rank = config["qk_nope_head_dim"], config.get("q_lora_rank")
    q = rank * (hidden + heads * (plain + key)) if rank else hidden * heads * (plain + key)
    kv = hidden * (latent + key) + latent * heads * (plain + value)
    widths = [("hidden size", hidden), ("attention width", heads * value), ("size of the latent", latent)]
    return {
        "kv_heads": 1,
        "plain_dim": plain,
        "head_dim": latent,
        "v_head_dim": key,
        "widths": (*widths, *([("rank of q", rank)] if rank else [])),
        "attention_scale": (plain + key) ** -0.5 * _stretch(rope_of(config)),
        "attention_parameters": q + kv + hidden * heads * value,
    }


def _stretch(rope: Mapping[str, Any]) -> float:
    """YaRN's factor on the scores, (0.1 m ln(factor) + 1)^2 with m = mscale_all_dim (DeepSeek-V2's code)."""
    m, factor = rope.get("mscale_all_dim"), rope.get("factor", 1)
    return (0.1 * m * math.log(factor) + 1) ** 2 if m and factor > 1 else 1.0


def latent_attention(pairs: bool) -> Swap:
    """`pairs`: the rotated channels lie side by side in the checkpoint, and are turned half-split."""

    def sources(spec: DecoderSpec, devices: int) -> Mapping[str, Source]:
        sizes = dict(spec.widths)
        latent, key = spec.head_dim, spec.v_head_dim
        value = sizes["attention width"] // spec.heads
        return {
            **_q(spec, sizes.get("rank of q"), key if pairs else 0),
            "kv_a": Source(("kv_a_proj_with_mqa",), _key_rows(latent, key, pairs)),
            "kv_a_norm": Source(("kv_a_layernorm",)),
            "k_b": Source(("kv_b_proj",), _heads(spec.heads, spec.plain_dim + value, 0, spec.plain_dim)),
            "v_b": Source(("kv_b_proj",), _heads(spec.heads, spec.plain_dim + value, spec.plain_dim, value)),
            "out": Source(("o_proj",)),
        }

    return Swap("self_attn", "patches.latent:LatentAttention", sources)


def _q(spec: DecoderSpec, rank: int | None, pairs: int) -> dict[str, Source]:
    rows = merged(chain.from_iterable(_q_head(spec, head, pairs) for head in range(spec.heads)))
    if not rank:
        return {"q": Source(("q_proj",), rows)}
    return {"q_a": Source(("q_a_proj",)), "q_a_norm": Source(("q_a_layernorm",)), "q_b": Source(("q_b_proj",), rows)}


def _q_head(spec: DecoderSpec, head: int, pairs: int) -> Rows:
    size = spec.plain_dim + spec.v_head_dim
    start, stop = head * size, (head + 1) * size
    turned = start + spec.plain_dim
    return ((start, turned, 1), *half_split(turned, turned + pairs, stop))


def _key_rows(latent: int, key: int, pairs: bool) -> Rows:
    return ((0, latent, 1), *half_split(latent, latent + (key if pairs else 0), latent + key))


def _heads(heads: int, size: int, start: int, count: int) -> Rows:
    """`count` rows from `start` on in each of `heads` heads of `size` rows."""
    return merged((h * size + start, h * size + start + count, 1) for h in range(heads))
