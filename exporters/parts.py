"""The swaps that most architectures share: standard attention, and experts side by side. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from exporters.architecture import Source, Swap
from exporters.rows import Heads, merged
from exporters.spec import DecoderSpec
from exporters.vision import VisionSpec

LAYER_WEIGHTS = (
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
)
SPLIT = ("self_attn.out", "mlp.down_proj")


def attention(
    at: str = "self_attn",
    parts: tuple[str, ...] = ("q_proj", "k_proj", "v_proj"),
    out: str = "o_proj",
    order: Callable[[Any], str] = lambda spec: "plain",
    pairs: Callable[[Any], int] = lambda spec: 0,
    norms: tuple[str, ...] = (),
    q_apart: bool = False,
    to: str = "patches.attention:Attention",
) -> Swap:
    """Attention with heads of one size, of a decoder or a tower, its projections at `parts`: three, or one that joins
    them (exporters.rows).

    `norms`: the norms of q and of k, where the model has them. One device: q, k and v from one matmul, or, with
    norms or `q_apart`, q from its own. Several: three matmuls, which the compiler splits, where it would replicate a
    joint one.
    """

    def sources(spec: DecoderSpec | VisionSpec, devices: int) -> Mapping[str, Source]:
        heads = Heads(spec.heads, spec.kv_heads, spec.head_dim, order(spec), pairs(spec))
        q, k, v = heads.q(), heads.k(), heads.v()
        if devices > 1:
            made = {"q": q, "k": k, "v": v}
        elif norms or q_apart:
            made = {"q": q, "kv": (*k, *v)}
        else:
            made = {"qkv": (*q, *k, *v)}
        projections = {name: Source(parts, merged(rows)) for name, rows in made.items()}
        kept = {"out": out, **dict(zip(("q_norm", "k_norm"), norms, strict=False))}
        return {**projections, **{name: Source((path,)) for name, path in kept.items()}}

    return Swap(at, to, sources)
