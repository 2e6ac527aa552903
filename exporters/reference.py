"""What unpatched Hugging Face says: tokens, and the hidden states between layers.

The model is loaded as any user would load it, in float32; where that does not fit into memory, accelerate keeps
its layers on disk. It is the one place where the whole model exists.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from exporters.checkpoint import Checkpoint

# Forced on models whose weights must be read from disk for every token: a greedy continuation would take hours.
PASSAGE = (
    "The river rises in the hills above the town and runs for forty miles before it meets the sea. In spring, when "
    "the snow melts, it covers the low fields on both banks, and the farmers wait until the water has gone before "
    "they plough. There are three bridges. The oldest, made of stone, was built by the monks who lived on the island; "
    "the second carries the railway; the third was finished last year, and most people now cross there."
)
# Share of the free memory that float32 weights may take; the rest is for activations and the other rungs.
MEMORY_SHARE = 0.6


@dataclass(frozen=True)
class Reference:
    """`prompt` and `forced`: token ids fed; `expected[j]`: the argmax after prompt + forced[:j]; `gap[j]`: how far
    its logit lies above the second. `embedded` [T, H] and `layers[i]` [T, H]: float32 states after the embedding and
    after each layer, T = len(prompt) + len(forced)."""

    prompt: list[int]
    forced: list[int]
    expected: list[int]
    gap: list[float]
    embedded: torch.Tensor
    layers: list[torch.Tensor]


def run(model_dir: Path, layer_path: str, vocab: int, prompt: str, positions: int, seq_length: int) -> Reference:
    """Feed `prompt`, then `positions` - 1 forced tokens; both are shortened until they fit `seq_length`."""
    positions = min(positions, seq_length)
    ids = _prompt_ids(model_dir, prompt, vocab)[: seq_length - positions + 1]
    with tempfile.TemporaryDirectory() as offload, torch.no_grad():
        model, in_memory = _load(model_dir, offload)
        if in_memory:
            forced = _greedy(model, ids, positions - 1)
        else:
            forced = (_prompt_ids(model_dir, PASSAGE, vocab) * positions)[: positions - 1]
        return _observe(model, layer_path, ids, forced)


def _prompt_ids(model_dir: Path, prompt: str, vocab: int) -> list[int]:
    """Token ids of `prompt`; for a checkpoint without a tokenizer, a fixed pseudo-random sequence."""
    if any(next(model_dir.glob(name), None) for name in ("tokenizer*", "*.tiktoken", "vocab.*")):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
        return list(tokenizer(prompt)["input_ids"])
    generator = torch.Generator().manual_seed(len(prompt))
    return torch.randint(vocab, (16,), generator=generator).tolist()


def _load(model_dir: Path, offload: str) -> tuple[Any, bool]:
    from transformers import AutoModelForCausalLM

    checkpoint = Checkpoint(model_dir)
    need = sum(4 * torch.Size(checkpoint.shape(name)).numel() for name in checkpoint.names())
    room = int(psutil.virtual_memory().available * MEMORY_SHARE)
    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True}
    if need > room:
        options |= {"device_map": "auto", "max_memory": {"cpu": room}, "offload_folder": offload}
    return AutoModelForCausalLM.from_pretrained(model_dir, **options).eval(), need <= room


def _greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    tokens, cache, step = [], None, torch.tensor([prompt])
    for _ in range(count):
        out = model(input_ids=step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        step = out.logits[:, -1:].argmax(-1)
        tokens.append(int(step))
    return tokens


def _observe(model: Any, layer_path: str, prompt: list[int], forced: list[int]) -> Reference:
    """One pass over all positions, with the states caught between the layers."""
    states: list[torch.Tensor] = []
    first: list[torch.Tensor] = []

    def before(_module: Any, args: Any, kwargs: Any) -> None:
        first.append(args[0] if args else kwargs["hidden_states"])

    def after(_module: Any, _args: Any, out: Any) -> None:
        states.append((out[0] if isinstance(out, tuple) else out)[0].clone())

    layers = model.get_submodule(layer_path)
    hooks = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    hooks += [layer.register_forward_hook(after) for layer in layers]
    logits = model(input_ids=torch.tensor([prompt + forced]), use_cache=False).logits[0, len(prompt) - 1 :].float()
    for hook in hooks:
        hook.remove()
    if not torch.isfinite(logits).all():
        raise RuntimeError("Hugging Face's own logits hold NaN or infinity: the checkpoint or its code is broken")
    top = logits.topk(2).values
    gap = (top[:, 0] - top[:, 1]).tolist()
    return Reference(prompt, forced, logits.argmax(-1).tolist(), gap, first[0][0].clone(), states)
