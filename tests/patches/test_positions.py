"""Rows of projections and masks by distance, which our attention is given."""

from __future__ import annotations

import pytest
import torch

from exporters.rows import Heads, half_split, merged
from patches.positions import Alibi, Distance, Window, slopes


@pytest.mark.parametrize("heads", [Heads(4, 2, 3), Heads(4, 2, 3, "grouped"), Heads(2, 2, 4, "grouped", pairs=2)])
def test_rows_of_q_k_and_v_are_all_rows_once(heads: Heads) -> None:
    rows = [row for ranges in (heads.q(), heads.k(), heads.v()) for r in ranges for row in range(*r)]
    assert sorted(rows) == list(range((heads.heads + 2 * heads.kv_heads) * heads.head_dim))


def test_grouped_rows_follow_each_kv_head() -> None:
    """Two KV heads of two q heads each, one row a head: q q k v, q q k v."""
    heads = Heads(4, 2, 1, "grouped")
    assert [r for ranges in (heads.q(), heads.k(), heads.v()) for a, b, c in ranges for r in range(a, b, c)] == [
        *(0, 1, 4, 5),
        *(2, 6),
        *(3, 7),
    ]


def test_pairs_become_halves_and_ranges_join() -> None:
    assert half_split(10, 14, 16) == ((10, 14, 2), (11, 14, 2), (14, 16, 1))
    assert merged([(0, 2, 1), (2, 4, 1), (5, 6, 1)]) == ((0, 4, 1), (5, 6, 1))


@pytest.mark.parametrize("length", [40, 64, 300])
def test_distances_are_exact_near_the_query_even_in_half_precision(length: int) -> None:
    module = Distance(length, shift=7).bfloat16()
    found = module(torch.arange(length)[None])[0, 0].float()
    wanted = torch.arange(length)[None] - torch.arange(length)[:, None] + 7
    near = wanted.abs() <= 256
    assert torch.equal(found[near], wanted[near].float())
    assert torch.equal(found.sign(), wanted.sign().float())


def test_a_window_hides_what_lies_further_back() -> None:
    window = Window(8, 3)
    mask = window(torch.arange(8)[None], torch.zeros(1, 1, 8, 8))[0, 0]
    assert [int((row[: i + 1] == 0).sum()) for i, row in enumerate(mask)] == [1, 2, 3, 3, 3, 3, 3, 3]
    step = window(torch.tensor([[5]]), torch.zeros(1, 1, 1, 9))[0, 0, 0]
    assert [i for i, value in enumerate(step[:5]) if value == 0] == [3, 4]  # and itself, at the end
    assert step[8] == 0


def test_alibi_slopes_and_its_own_place() -> None:
    """For 8 heads 1/2, 1/4 ...; the paper's list for 12 heads begins with those of 8."""
    assert slopes(8) == [2.0**-i for i in range(1, 9)]
    assert slopes(12)[:8] == slopes(8)
    assert slopes(12)[8] == pytest.approx(2**-0.5)
    step = Alibi(8, 2)(torch.tensor([[4]]), torch.zeros(1, 1, 1, 9))
    assert step[0, 0, 0].tolist() == pytest.approx([-4 / 16, -3 / 16, -2 / 16, -1 / 16, 0, 0, 0, 0, 0])
