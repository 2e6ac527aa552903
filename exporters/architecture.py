"""An architecture as a table: where its modules lie, which weights it needs, how it deviates. No torch here."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from contract.errors import UserError, one_of
from exporters.spec import DecoderSpec, llama_like

# The files of this folder that hold a table, each as ARCHITECTURE.
TABLES = ("llama", "qwen2")


@dataclass(frozen=True)
class Fusion:
    """Linear modules `parts` of a layer become one module `into`: their weights one after the other by rows."""

    into: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Architecture:
    """Paths are dotted, from the model's root; `layer_weights` and fusions are relative to one layer.

    `layer_weights`: what a checkpoint must hold for every layer (biases that a config may switch off are left out).
    `patches`: "module:NAME" of a tuple of patches, loaded only where torch is. They and `fusions` apply to graphs
    for one device; `split_patches` to those for several, where fused projections could not be split.
    """

    model_types: tuple[str, ...]
    layer_weights: tuple[str, ...]
    embed: str = "model.embed_tokens"
    layers: str = "model.layers"
    norm: str = "model.norm"
    head: str = "lm_head"
    rotary: str = "model.rotary_emb"
    fusions: tuple[Fusion, ...] = ()
    patches: str = ""
    split_patches: str = ""
    read: Callable[[dict[str, Any]], DecoderSpec] = llama_like

    def required_weights(self, spec: DecoderSpec) -> tuple[str, ...]:
        """Names of the tensors without which nothing can be exported."""
        layers = (f"{self.layers}.{i}.{name}" for i in range(spec.layers) for name in self.layer_weights)
        head = () if spec.tied else (f"{self.head}.weight",)
        return (f"{self.embed}.weight", *layers, f"{self.norm}.weight", *head)


@cache
def tables() -> dict[str, Architecture]:
    """Architectures by model_type. RuntimeError where two tables claim one."""
    found: dict[str, Architecture] = {}
    for name in TABLES:
        architecture: Architecture = import_module(f"exporters.{name}").ARCHITECTURE
        for model_type in architecture.model_types:
            if model_type in found:
                raise RuntimeError(f"exporters/{name}.py: model_type {model_type!r} stands in another table already")
            found[model_type] = architecture
    return found


def find(model_type: str, where: str = "") -> Architecture:
    """The table for a model_type. UserError, naming near matches, where there is none."""
    known = tables()
    if model_type not in known:
        near = difflib.get_close_matches(model_type, known, n=3, cutoff=0.5)
        hint = f"did you mean {one_of(near)}?" if near else f"known are {one_of(sorted(known))}"
        raise UserError(f"model_type {model_type!r} is unknown", where, hint)
    return known[model_type]
