"""Which rows of a checkpoint's projections are q, which k, which v, and in which order we want them. No torch here.

Rows are output channels. They are given as strided ranges (start, stop, step), so that a few numbers in a file stand
for any of the layouts that checkpoints have: q, k and v apart, one after the other, or interleaved by groups of heads;
rotary pairs side by side, or half a head apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

Rows = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Heads:
    """`order`: how q, k and v of a fused projection lie: "plain" (all q, all k, all v), or "grouped" (for each KV
    head its q heads, then itself, then its v). `pairs`: how many channels at the start of each head hold rotary pairs
    side by side (0, 1), (2, 3) and so on; ours are half-split, as Llama's, which the compiler handles best."""

    heads: int
    kv_heads: int
    head_dim: int
    order: str = "plain"
    pairs: int = 0

    def q(self) -> Rows:
        return self._turned(self._starts(range(self.heads)))

    def k(self) -> Rows:
        return self._turned(self._starts(range(self.heads, self.heads + self.kv_heads)))

    def v(self) -> Rows:
        heads = range(self.heads + self.kv_heads, self.heads + 2 * self.kv_heads)
        return merged((start, start + self.head_dim, 1) for start in self._starts(heads))

    def _starts(self, heads: range) -> list[int]:
        """First row of each head; heads are numbered q first, then k, then v."""
        return [self._place(head) * self.head_dim for head in heads]

    def _place(self, head: int) -> int:
        if self.order == "plain":
            return head
        group = self.heads // self.kv_heads
        if head < self.heads:
            return head // group * (group + 2) + head % group
        number = head - self.heads
        return number % self.kv_heads * (group + 2) + group + number // self.kv_heads

    def _turned(self, starts: list[int]) -> Rows:
        each = (half_split(start, start + self.pairs, start + self.head_dim) for start in starts)
        return merged(chain.from_iterable(each))


def half_split(start: int, pairs: int, stop: int) -> Rows:
    """Rows start..stop of which start..pairs are pairs side by side: first all first halves, then all second."""
    turned = ((start, pairs, 2), (start + 1, pairs, 2)) if pairs > start else ()
    return (*turned, (pairs, stop, 1)) if stop > pairs else turned


def merged(ranges: object) -> Rows:
    """The same rows in as few ranges as possible."""
    out: list[tuple[int, int, int]] = []
    for start, stop, step in ranges:  # type: ignore[attr-defined]
        if out and step == out[-1][2] == 1 and out[-1][1] == start:
            out[-1] = (out[-1][0], stop, 1)
        else:
            out.append((start, stop, step))
    return tuple(out)
