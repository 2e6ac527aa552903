"""An architecture as a table: where its modules lie, which weights it needs, how it deviates. No torch here."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from contract.errors import UserError, one_of
from exporters.rows import Rows
from exporters.spec import DecoderSpec, llama_like
from exporters.vision import Vision

# The files of this folder that hold a table, as ARCHITECTURE, or several, as ARCHITECTURES.
TABLES = (
    *("llama", "qwen2", "mistral", "qwen3", "phi3", "gemma", "gemma3", "glm"),
    *("falcon", "gpt_bigcode", "minicpm3", "deepseek_v2"),
    *("qwen", "baichuan", "chatglm", "internlm2"),
    *(
        "qwen_vl",
        "qwen3_vl",
        "glm4v",
        "gemma3_vl",
        "internvl",
        "internvl_chat",
        "llava",
        "janus",
        "minicpmv",
        "minicpmo",
    ),
)


@dataclass(frozen=True)
class Source:
    """Where a parameter of ours comes from: the checkpoint's `parts`, joined along `axis`, of which `rows` are taken.

    Paths of modules, relative to the layer. `{expert}` in one stands for each expert in turn.
    """

    parts: tuple[str, ...]
    rows: Rows = ()
    axis: int = 0


@dataclass(frozen=True)
class Swap:
    """In each layer that has a module at `when` (or `at`), the module at `at` gives way to one of ours.

    `to`: "module:Class", called with the old module and these sources. `sources(spec, devices)`, of the decoder's spec
    or the tower's: for each module
    of the new one, relative to it, where its weights come from, relative to the old one; what is not named keeps
    its path.
    """

    at: str
    to: str
    sources: Callable[[Any, int], Mapping[str, Source]]
    when: str = ""


@dataclass(frozen=True)
class Architecture:
    """Paths are dotted, from the model's root; `layer_weights` and swaps are relative to one layer.

    `layer_weights`: what a checkpoint must hold for every layer (biases that a config may switch off are left out).
    `positions`: a table of learned positions that is added to the embedding. `tables`: "module:function" for rotary
    tables that the module at `rotary` does not give by itself (patches.rotary says what it takes and gives).
    `split`: the linear modules in front of a layer's residual sums, where the compiler is known to split such a layer
    over several devices as a whole; empty where it is not.
    `normalised_head`: class of a head that divides the rows of its weight by their length.
    `remote`: the checkpoint brings its own code.
    `auto`: transformers' class that makes the model. `stored`: prefixes of tensors' names as some files have them, and
    as the model has them. `vision`: the tower beside the decoder.
    """

    model_types: tuple[str, ...]
    layer_weights: tuple[str, ...]
    swaps: tuple[Swap, ...]
    embed: str = "model.embed_tokens"
    layers: str = "model.layers"
    norm: str = "model.norm"
    head: str = "lm_head"
    rotary: str = "model.rotary_emb"
    positions: str = ""
    tables: str = ""
    normalised_head: str = ""
    remote: bool = False
    split: tuple[str, ...] = ()
    auto: str = "AutoModelForCausalLM"
    stored: tuple[tuple[str, str], ...] = ()
    vision: Vision | None = None
    read: Callable[[dict[str, Any]], DecoderSpec] = llama_like

    def in_memory(self, name: str) -> str:
        """A tensor's name in the model, of its name in a file."""
        for theirs, ours in self.stored:
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return name

    def required_weights(self, spec: DecoderSpec) -> tuple[str, ...]:
        """Names of the tensors without which nothing can be exported."""
        layers = (f"{self.layers}.{i}.{name}" for i in range(spec.layers) for name in self.layer_weights)
        head = () if spec.tied else (f"{self.head}.weight",)
        positions = (f"{self.positions}.weight",) if self.positions else ()
        return (f"{self.embed}.weight", *positions, *layers, f"{self.norm}.weight", *head)


@cache
def tables() -> dict[str, Architecture]:
    """Architectures by model_type. RuntimeError where two tables claim one."""
    found: dict[str, Architecture] = {}
    for name in TABLES:
        module = import_module(f"exporters.{name}")
        several: tuple[Architecture, ...] = getattr(module, "ARCHITECTURES", None) or (module.ARCHITECTURE,)
        for architecture in several:
            for model_type in architecture.model_types:
                if model_type in found:
                    raise RuntimeError(
                        f"exporters/{name}.py: model_type {model_type!r} stands in another table already"
                    )
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
