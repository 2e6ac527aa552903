"""Patches are applied and always restored; the patched forms compute what the originals do."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaAttention

from patches.attention import StepCache, fuse_linears, fused_qkv
from patches.patch import Patch, applied


def test_a_patch_is_restored_after_an_error() -> None:
    original = LlamaAttention.forward

    def work() -> None:
        with applied([fused_qkv("llama", "LlamaAttention")]):
            assert LlamaAttention.forward is not original
            raise KeyError("some mistake")

    with pytest.raises(KeyError, match="some mistake"):
        work()
    assert LlamaAttention.forward is original


def test_a_patch_for_another_release_is_refused_and_nothing_stays_patched() -> None:
    original = LlamaAttention.forward
    good = fused_qkv("llama", "LlamaAttention")
    old = Patch(good.target, good.replacement, "for a release that is gone", "<4")
    with pytest.raises(RuntimeError, match="written for transformers <4"), applied([good, old]):
        pass
    assert LlamaAttention.forward is original


def test_the_step_cache_keeps_the_new_step_only() -> None:
    history = torch.randn(2, 1, 5, 3, 4)
    cache = StepCache(history[0], history[1])
    k, v = torch.randn(2, 1, 3, 2, 4)  # heads before positions, as transformers hands them over
    seen_k, seen_v = cache.update(k, v)
    assert cache.k is not None
    assert cache.k.shape == (1, 2, 3, 4)
    assert torch.equal(seen_k, torch.cat([history[0], k.transpose(1, 2)], 1).transpose(1, 2))
    assert torch.equal(seen_v[:, :, 5:], v)


@pytest.mark.parametrize("bias", [True, False])
def test_fused_linears_give_their_parts_one_after_the_other(bias: bool) -> None:
    layer = torch.nn.Module()
    layer.attn = torch.nn.Module()
    layer.attn.a = torch.nn.Linear(6, 4, bias=bias)
    layer.attn.b = torch.nn.Linear(6, 2, bias=bias)
    x = torch.randn(3, 6)
    expected = torch.cat([layer.attn.a(x), layer.attn.b(x)], -1)
    fuse_linears(layer, "attn.ab", ("attn.a", "attn.b"))
    assert torch.allclose(layer.attn.ab(x), expected, atol=1e-6)
    assert [name for name, _ in layer.named_children()] == ["attn"]
    assert [name for name, _ in layer.attn.named_children()] == ["ab"]
