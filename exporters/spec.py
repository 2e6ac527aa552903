"""What the rest of the tool needs to know of a checkpoint, read from its config.json. No torch here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.errors import UserError
from contract.graphs import BFLOAT16, Geometry


@dataclass(frozen=True)
class DecoderSpec:
    """Sizes of a decoder. `max_positions`: the longest sequence the model was made for.

    `layer_kinds[i]` numbers the distinct graph of layer i: layers that differ in weights only share a number.
    `tied`: lm_head uses the embedding table. `dtype`: the checkpoint's own, as config.json says.
    """

    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int
    tied: bool
    dtype: str
    layer_kinds: tuple[int, ...]

    def geometry(self, seq_length: int, half: str = BFLOAT16) -> Geometry:
        return Geometry(self.layers, self.hidden, self.kv_heads, self.head_dim, self.vocab, seq_length, half)


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
    from exporters.architecture import find

    config = read_config(model_dir)
    where = str(model_dir / "config.json")
    architecture = find(config["model_type"], where)
    try:
        spec = architecture.read(config)
    except KeyError as error:
        raise UserError(f"lacks {error.args[0]!r}", where, "take the original config.json") from error
    if spec.hidden <= 0 or spec.layers <= 0 or spec.heads % spec.kv_heads:
        raise UserError("sizes make no decoder (layers, hidden or heads)", where, "take the original config.json")
    return spec


def llama_like(config: dict[str, Any]) -> DecoderSpec:
    """The keys that Llama made common: num_attention_heads, num_key_value_heads, head_dim and so on.

    No published Qwen2 slides its window; one that does is built up to the window, within which nothing slides.
    """
    heads = config["num_attention_heads"]
    layers = config["num_hidden_layers"]
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    return DecoderSpec(
        model_type=config["model_type"],
        layers=layers,
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab=config["vocab_size"],
        max_positions=min(config["max_position_embeddings"], window or config["max_position_embeddings"]),
        tied=bool(config.get("tie_word_embeddings", False)),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        layer_kinds=(0,) * layers,
    )


def from_sizes(model_type: str, sizes: Any) -> DecoderSpec:
    """What a recipe promises of its checkpoint (recipes.recipe.Sizes), before the checkpoint is here."""
    from exporters.architecture import find

    config = {
        "model_type": model_type,
        "num_hidden_layers": sizes.layers,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": sizes.vocab,
        "max_position_embeddings": sizes.max_positions,
        "tie_word_embeddings": sizes.tied,
    }
    return find(model_type).read(config)
