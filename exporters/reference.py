"""What unpatched Hugging Face says: tokens, and the hidden states between layers.

The model is loaded as any user would load it, in float32; where that does not fit into memory, accelerate keeps
its layers on disk. It is the one place where the whole model exists.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from contract.errors import UserError
from contract.ladder import MEMORY_SHARE
from contract.vision import Pictures
from exporters import plain, remote, show
from exporters import tokenizer as tokenizers
from exporters.architecture import Architecture
from exporters.checkpoint import Checkpoint
from exporters.model import imported
from exporters.spec import DecoderSpec
from exporters.vision import Size
from patches import compat, vml

# Forced on models whose weights must be read from disk for every token: a greedy continuation would take hours.
PASSAGE = (
    "The river rises in the hills above the town and runs for forty miles before it meets the sea. In spring, when "
    "the snow melts, it covers the low fields on both banks, and the farmers wait until the water has gone before "
    "they plough. There are three bridges. The oldest, made of stone, was built by the monks who lived on the island; "
    "the second carries the railway; the third was finished last year, and most people now cross there."
)


@dataclass(frozen=True)
class Reference:
    """`prompt` and `forced`: token ids fed; `expected[j]`: the argmax after prompt + forced[:j]; `gap[j]`: how far
    its logit, `top[j]`, lies above the second. `embedded` [T, H] and `layers[i]` [T, H]: float32 states after the
    embedding and after each layer, T = len(prompt) + len(forced). `pictures`: what the prompt shows; `features`: what
    the tower makes of them, [rows, H], its deepstack features behind (exporters.show)."""

    prompt: list[int]
    forced: list[int]
    expected: list[int]
    gap: list[float]
    top: list[float]
    embedded: torch.Tensor
    layers: list[torch.Tensor]
    pictures: Pictures | None = None
    features: tuple[torch.Tensor, ...] = ()


def run(
    model_dir: Path,
    architecture: Architecture,
    spec: DecoderSpec,
    prompt: str,
    positions: int,
    seq_length: int,
    most: int | None = None,
    adapter: Path | None = None,
    size: Size | None = None,
) -> Reference:
    """Feed `prompt`, then `positions` - 1 forced tokens; both are shortened until they fit `seq_length`, and the
    prompt until it has at most `most` tokens. `adapter`: peft puts it over the model; nothing is merged here.
    `size`: height and width of the largest picture, in pixels, of a model that sees; a smaller one goes into the
    prompt."""
    vml.settle()
    positions = min(positions, seq_length)
    room = min(seq_length - positions + 1, most or seq_length)
    ids, shown = _prompt_ids(model_dir, prompt, spec.vocab)[:room], None
    if spec.vision and size:
        ids, shown = show.sample(spec.vision, size, ids, room)
        positions = min(positions, seq_length - len(ids) + 1)  # a picture of one size takes what it takes
    with tempfile.TemporaryDirectory() as offload, torch.no_grad(), compat.running():
        model, in_memory = _load(model_dir, architecture, spec, offload)
        model = _adapted(model, adapter) if adapter else model
        if in_memory:
            forced = _greedy(model, ids, positions - 1, shown, spec.vision.placeholders if spec.vision else ())
        else:
            forced = (_prompt_ids(model_dir, PASSAGE, spec.vocab) * positions)[: positions - 1]
        # Rope that the prompt's length decides for good says something else in one pass over all positions.
        stays = spec.switches(seq_length) and not spec.rope_restarts
        chunks = [ids, *([token] for token in forced)] if stays else [ids + forced]
        seen = _observe(model, architecture, ids, forced, chunks, shown)
        return replace(seen, pictures=shown, features=show.features(model, shown)) if shown else seen


def _prompt_ids(model_dir: Path, prompt: str, vocab: int) -> list[int]:
    """Token ids of `prompt`; for a checkpoint without a tokenizer, a fixed pseudo-random sequence."""
    if (tokenizer := tokenizers.load(model_dir)) is not None:
        return list(tokenizer(prompt)["input_ids"])
    generator = torch.Generator().manual_seed(len(prompt))
    return torch.randint(vocab, (16,), generator=generator).tolist()


def _load(model_dir: Path, architecture: Architecture, spec: DecoderSpec, offload: str) -> tuple[Any, bool]:
    import transformers

    checkpoint = Checkpoint(model_dir)
    need = sum(4 * torch.Size(checkpoint.shape(name)).numel() for name in checkpoint.names())
    room = int(psutil.virtual_memory().available * MEMORY_SHARE)
    if architecture.remote:
        if need > psutil.virtual_memory().available:
            what = f"the checkpoint's own code takes {need / 1e9:.1f} GB of memory in float32, more than is free"
            raise UserError(what, str(model_dir), "use a larger machine, or build without parity (VERIFY=none)")
        model = remote.load_whole(model_dir).eval()
        whole = architecture.vision and architecture.vision.whole
        return (imported(whole)(model, spec.vision) if whole else model), True
    if checkpoint.scheme:
        model_dir = plain.write(checkpoint, Path(offload) / "plain")
    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True}
    if need > room:
        options |= {"device_map": "auto", "max_memory": {"cpu": room}, "offload_folder": offload}
    return getattr(transformers, architecture.auto).from_pretrained(model_dir, **options).eval(), need <= room


def _adapted(model: Any, adapter: Path) -> Any:
    """The same module paths, with peft's layers in the places of those that the adapter changes."""
    from peft import PeftModel

    adapted: Any = PeftModel.from_pretrained(model, adapter, local_files_only=True)
    return adapted.base_model.model.eval()


def _forward(
    model: Any, chunks: Iterable[list[int]], use_cache: bool, shown: Pictures | None = None
) -> Iterator[torch.Tensor]:
    """The logits [T, V] of each chunk, which follows on those before it. The cache is the model's own, in its form.
    `shown`: in the first chunk."""
    # ChatGLM takes every chunk to begin at position 0 unless told; Baichuan-13B has no positions to tell.
    told = "position_ids" in inspect.signature(type(model).forward).parameters
    past, cache = 0, None
    for chunk in chunks:
        others: dict[str, Any] = {"position_ids": torch.arange(past, past + len(chunk))[None]} if told else {}
        if shown is not None:  # where positions depend on pictures the model alone knows them
            others = show.arguments(model, shown, chunk) if cache is None else {}
        out = model(input_ids=torch.tensor([chunk]), past_key_values=cache, use_cache=use_cache, **others)
        past, cache = past + len(chunk), out.past_key_values
        yield out.logits[0]


def _greedy(model: Any, prompt: list[int], count: int, shown: Pictures | None, never: Sequence[int]) -> list[int]:
    """`never`: tokens that stand for pictures, which an untrained model may well give."""
    tokens: list[int] = []
    chunks = (tokens[-1:] or prompt for _ in range(count))
    for logits in _forward(model, chunks, True, shown):
        logits[-1, list(never)] = -torch.inf
        tokens.append(int(logits[-1].argmax()))
    return tokens


def _observe(
    model: Any,
    architecture: Architecture,
    prompt: list[int],
    forced: list[int],
    chunks: list[list[int]],
    shown: Pictures | None,
) -> Reference:
    """One pass over each of `chunks`, with the states caught behind the embedding and each layer."""
    layers = model.get_submodule(architecture.layers)
    caught: list[list[torch.Tensor]] = [[] for _ in range(len(layers) + 1)]

    def catch(place: int) -> Any:
        def after(_module: Any, _args: Any, out: Any) -> None:
            state = out[0] if isinstance(out, tuple) else out
            caught[place].append(state.reshape(-1, state.shape[-1]).clone())  # [1, T, H], or ChatGLM's [T, 1, H]

        return after

    def before(_module: Any, args: Any, kwargs: Any) -> None:  # pictures come in between embedding and first layer
        catch(0)(None, None, args[0] if args else kwargs["hidden_states"])

    hooks = [layer.register_forward_hook(catch(place)) for place, layer in enumerate(layers, 1)]
    if shown is None:
        hooks.append(model.get_submodule(architecture.embed).register_forward_hook(catch(0)))
    else:
        hooks.append(layers[0].register_forward_pre_hook(before, with_kwargs=True))
    rows = [logits.float() for logits in _forward(model, chunks, len(chunks) > 1, shown)]
    for hook in hooks:
        hook.remove()
    logits = torch.cat(rows)[len(prompt) - 1 :]
    if not torch.isfinite(logits).all():
        raise RuntimeError("Hugging Face's own logits hold NaN or infinity: the checkpoint or its code is broken")
    top = logits.topk(2).values
    gap = (top[:, 0] - top[:, 1]).tolist()
    embedded, *states = (torch.cat(parts) for parts in caught)
    return Reference(prompt, forced, logits.argmax(-1).tolist(), gap, top[:, 0].tolist(), embedded, states)
