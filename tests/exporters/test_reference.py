"""Hugging Face's own word: the same whether the model fits into memory or is read from disk layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exporters import reference, spec
from exporters.architecture import find

QWEN2 = find("qwen2")


def run(folder: Path, seq_length: int = 96) -> reference.Reference:
    return reference.run(folder, QWEN2, spec.read(folder), "Hello", 64, seq_length)


def test_a_model_too_large_for_memory_gives_the_same_states(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = checkpoint("qwen2")
    monkeypatch.setattr(reference, "MEMORY_SHARE", 1e-5)
    found = run(folder)
    monkeypatch.undo()
    model, in_memory = reference._load(folder, QWEN2, spec.read(folder), str(tmp_path))
    assert in_memory
    with torch.no_grad():
        whole = reference._observe(model, QWEN2, found.prompt, found.forced, [found.prompt + found.forced], None)
    assert whole.expected == found.expected
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole.layers, found.layers, strict=True))


def test_forced_tokens_are_the_models_own_where_it_fits(checkpoint: Callable[[str], Path]) -> None:
    found = run(checkpoint("qwen2"))
    assert found.forced == found.expected[:-1]
    assert len(found.expected) == len(found.gap) == 64
    assert found.embedded.shape[0] == found.layers[1].shape[0] == len(found.prompt) + 63


def test_prompt_and_positions_shrink_to_a_short_sequence(checkpoint: Callable[[str], Path]) -> None:
    found = run(checkpoint("qwen2"), 40)
    assert (len(found.prompt), len(found.expected)) == (1, 40)


def test_a_broken_model_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = checkpoint("qwen2")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match="own logits hold NaN"):
        run(tmp_path)
