"""What the rest of the tool needs to know of a checkpoint, read from its config.json. No torch here."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.errors import UserError
from contract.graphs import BFLOAT16, Geometry
from exporters.vision import VisionSpec


@dataclass(frozen=True)
class DecoderSpec:
    """Sizes and quirks of a decoder. `max_positions`: the longest sequence the model was made for.

    `kv_heads`, `head_dim`, `v_head_dim`: what the KV cache holds of k and of v at each position.
    `layer_kinds[i]` numbers the distinct graph of layer i: layers that differ in weights only share a number.
    `layer_types[i]`: the name under which config.json knows the kind of layer i, where it has one.
    `windows[i]`: how many positions, itself included, a position of layer i sees; None for all before it.
    `layer_parameters[i]`: number of weights of layer i. `widths`: input channels of the layers' linear modules.
    `tied`: lm_head uses the embedding table. `dtype`: the checkpoint's own, as config.json says.
    `embedding_scale`, `logit_scale`: factors on the embedding and on lm_head's input; `logit_softcap`: c in
    c * tanh(logits / c). `attention_scale`: factor on q·k; `attention_softcap`: the same cap, on those scores.
    `alibi`: scores fall with distance, by a slope per head, in place of rotary positions.
    `logn_from`: a length n; q of the i-th position, i > n, is multiplied by log(i) / log(n).
    `layer_norm`: the norms are LayerNorm, not RMSNorm.
    `experts`: how many a layer has, 0 without. `plain_dim`: of latent attention, the channels of a q head that rope
    leaves alone.
    `rope_switches`: lengths beyond which other rotary tables hold, in ascending order; `rope_restarts`: whether a
    conversation that grows past one must be computed anew, as Hugging Face's generate() does, or keeps the tables
    of its prompt.
    `axes`: numbers that make one position, 3 with M-RoPE. `vision`: the tower whose features the decoder takes in.
    """

    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    vocab: int
    max_positions: int
    tied: bool
    dtype: str
    layer_kinds: tuple[int, ...]
    layer_types: tuple[str, ...]
    windows: tuple[int | None, ...]
    layer_parameters: tuple[int, ...]
    widths: tuple[tuple[str, int], ...]
    attention_scale: float
    attention_softcap: float | None = None
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    alibi: bool = False
    logn_from: int | None = None
    layer_norm: bool = False
    experts: int = 0
    plain_dim: int = 0
    rope_switches: tuple[int, ...] = ()
    rope_restarts: bool = True
    axes: int = 1
    vision: VisionSpec | None = None

    def geometry(self, seq_length: int, half: str = BFLOAT16, input_length: int = 0, batch: int = 1) -> Geometry:
        sizes = (self.layers, self.hidden, self.kv_heads, self.head_dim, self.v_head_dim, self.vocab)
        return Geometry(*sizes, seq_length, half, input_length, self.axes, batch)

    @property
    def parameters(self) -> int:
        """All weights, the embedding table once where it is shared."""
        tower = self.vision.parameters if self.vision else 0
        return sum(self.layer_parameters) + self.vocab * self.hidden * (1 if self.tied else 2) + tower

    def switches(self, seq_length: int) -> tuple[int, ...]:
        """Those of `rope_switches` that a build for `seq_length` positions can pass."""
        return tuple(length for length in self.rope_switches if length < seq_length)


def read_config(model_dir: Path) -> dict[str, Any]:
    """config.json as it stands. UserError where the folder or the file is missing or unreadable."""
    where = str(model_dir)
    if not model_dir.is_dir():
        raise UserError("no such model directory", where, "give MODEL=/path/to/checkpoint")
    path = model_dir / "config.json"
    if not path.is_file():
        state = "has no config.json" if any(model_dir.iterdir()) else "is empty"
        raise UserError(f"the model directory {state}", where, "download the whole checkpoint there")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"not valid JSON ({error})", str(path), "download the file again") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UserError("has no model_type", str(path), "take the config.json of the original checkpoint")
    return config


def read(model_dir: Path) -> DecoderSpec:
    """The spec of a checkpoint, by its architecture's own reader.

    UserError for a missing folder or file, an unknown model_type (near matches named), a missing key.
    """
    config = read_config(model_dir)
    return from_config(config["model_type"], config, str(model_dir / "config.json"))


def from_config(model_type: str, config: Mapping[str, Any], where: str) -> DecoderSpec:
    """The spec that the keys of a config.json promise; a recipe carries those that planning needs."""
    from exporters.architecture import find

    architecture = find(model_type, where)
    try:
        spec = architecture.read({**config, "model_type": model_type})
    except KeyError as error:
        raise UserError(f"lacks {error.args[0]!r}", where, "take the original config.json") from error
    if spec.hidden <= 0 or spec.layers <= 0 or spec.heads % spec.kv_heads:
        raise UserError("sizes make no decoder (layers, hidden or heads)", where, "take the original config.json")
    return spec


def llama_like(config: dict[str, Any], **known: Any) -> DecoderSpec:
    """The keys that Llama made common: num_attention_heads, num_key_value_heads, head_dim and so on.

    `known`: fields of DecoderSpec that a reader found by itself; the rest follows from them and from `config`.
    """
    fields = {**rope_changes(config), **known}

    def settle(name: str, otherwise: Callable[[], Any]) -> Any:
        return fields[name] if name in fields else fields.setdefault(name, otherwise())

    heads = settle("heads", lambda: config["num_attention_heads"])
    layers = settle("layers", lambda: config["num_hidden_layers"])
    hidden = config["hidden_size"]
    kv_heads = settle("kv_heads", lambda: config.get("num_key_value_heads") or heads)
    head_dim = settle("head_dim", lambda: config.get("head_dim") or hidden // heads)
    intermediate = settle("intermediate", lambda: config["intermediate_size"])
    types = settle("layer_types", lambda: tuple(config.get("layer_types") or ("",) * layers))
    windows = settle("windows", lambda: (None,) * layers)
    per_layer = 2 * hidden * (heads + kv_heads) * head_dim + 3 * hidden * intermediate + 4 * hidden
    widths = (("hidden size", hidden), ("attention width", heads * head_dim), ("intermediate size", intermediate))
    for name, value in {
        "v_head_dim": head_dim,
        "layer_kinds": number(zip(types, windows, strict=True)),
        "layer_parameters": (per_layer,) * layers,
        "widths": widths,
        "attention_scale": head_dim**-0.5,
        "tied": bool(config.get("tie_word_embeddings", False)),
        "dtype": str(config.get("dtype") or config.get("torch_dtype") or "float32"),
    }.items():
        fields.setdefault(name, value)
    settle("max_positions", lambda: config["max_position_embeddings"])
    return DecoderSpec(model_type=config["model_type"], hidden=hidden, vocab=config["vocab_size"], **fields)


def number(features: Iterable[Hashable]) -> tuple[int, ...]:
    """Equal features get equal numbers, counted from 0 in the order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(feature, len(numbers)) for feature in features)


def rope_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """How rope is scaled: "rope_scaling" in published files, "rope_parameters" as transformers 5 writes it."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def rope_changes(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_switches` and `max_positions` of the two kinds of rope that depend on the length of the sequence."""
    rope = rope_of(config)
    kind, trained = rope.get("rope_type") or rope.get("type"), config.get("max_position_embeddings")
    if kind in ("longrope", "su"):
        original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        return {"rope_switches": (original,)} if original else {}
    if kind == "dynamic" and trained:
        return {"rope_switches": (trained,), "max_positions": int(trained * rope["factor"])}
    return {}


def sliding(config: Mapping[str, Any], every: Iterable[bool]) -> dict[str, Any]:
    """`windows` (and `layer_types` where config.json leaves them out) of layers of which some slide a window."""
    slides = tuple(every)
    window = config["sliding_window"]
    named = tuple("sliding_attention" if slide else "full_attention" for slide in slides)
    return {"windows": tuple(window if slide else None for slide in slides), "layer_types": named}
