"""LoRA adapters as peft saves them, merged into a checkpoint's tensors while these are read. No torch here.

A module's weight W becomes W + scale * B @ A, with the scale of adapter_config.json: lora_alpha / r, or / sqrt(r). DoRA
then gives each row the length that was learned. Modules that were trained as a whole (modules_to_save, biases) take the
checkpoint's place. What changes a model otherwise is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from contract.errors import UserError

Array = np.ndarray[Any, np.dtype[np.float32]]
FILES = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
A, B, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
EMBEDDING_A, EMBEDDING_B = ".lora_embedding_A", ".lora_embedding_B"
# Settings that change more than the tensors say, or in a way that is not merged here.
REFUSED = (
    *("use_qalora", "use_bdlora", "layer_replication", "target_parameters", "trainable_token_indices", "lora_bias"),
    *("alora_invocation_tokens", "arrow_config", "monteclora_config", "velora_config"),
)
# Ways to begin that take something off the weights of the base, which the saved adapter expects to be gone.
ALTERING = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Modules at either end of a model, which may share one tensor.
ENDS = r"(^|\.)(lm_head|output_layer|embed_tokens|wte|word_embeddings|tok_embeddings)\."
MERGE = "merge it with peft (merge_and_unload) and give the result as MODEL="


class Tensors(Protocol):
    """The adapter's tensors, or the checkpoint's."""

    def __contains__(self, name: str) -> bool: ...

    def names(self) -> list[str]: ...

    def read(self, name: str) -> Array: ...

    def shape(self, name: str) -> tuple[int, ...]: ...


def file(folder: Path) -> Path:
    """The adapter's weight file. UserError where `folder` is no adapter."""
    where = str(folder)
    if not folder.is_dir():
        raise UserError("no such directory", where, "name the folder that holds adapter_config.json")
    if not (folder / "adapter_config.json").is_file():
        raise UserError("has no adapter_config.json", where, "name the folder that peft's save_pretrained made")
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if not found:
        raise UserError(f"has no {FILES[0]}", where, "name the folder that peft's save_pretrained made")
    return found[0]


class Adapter:
    """What becomes of each tensor of a checkpoint. UserError for what is not merged here, or does not fit `base`."""

    def __init__(
        self,
        folder: Path,
        tensors: Tensors,
        base: Tensors,
        tied: bool,
        absent: tuple[str, str] = (", which the checkpoint has not", "take the adapter's own base"),
    ) -> None:
        """`absent`: what is said of a tensor that is not in `base`, and the remedy."""
        self._tensors = tensors
        self._settings = _settings(folder)
        self._whole: dict[str, str] = {}  # tensors of the checkpoint, by name, to those that take their place
        self._low: dict[str, tuple[str, bool]] = {}  # to the module, and whether it is an embedding
        self._where = where = str(folder)
        for name in tensors.names():
            module, end = _told(name, where)
            if end in (A, B, MAGNITUDE, EMBEDDING_A, EMBEDDING_B):
                changed = f"{module}.weight"
                self._low[changed] = module, end in (EMBEDDING_A, EMBEDDING_B)
            else:
                changed = module
                self._whole[changed] = name
            if changed not in base:
                raise UserError(f"changes {changed}{absent[0]}", where, absent[1])
        shared = [name for name in (*self._whole, *self._low) if tied and re.search(ENDS, name)]
        if shared:
            raise UserError(f"changes {shared[0]}, which stands for embedding and head at once", where, MERGE)
        self._check_shapes(base, where)

    def apply(self, name: str, value: Array) -> Array:
        """Tensor `name` of the checkpoint, `value`, as the adapter has it; float32 of the same shape."""
        if name in self._whole:
            value = self._tensors.read(self._whole[name])
        if name not in self._low:
            return value
        module, embedding = self._low[name]
        merged = value + self._delta(module, embedding)
        if f"{PREFIX}{module}{MAGNITUDE}" in self._tensors:
            length = self._tensors.read(f"{PREFIX}{module}{MAGNITUDE}").reshape(-1, 1)
            merged = merged * (length / np.linalg.norm(merged, axis=1, keepdims=True))
        return np.ascontiguousarray(merged, np.float32)

    def low_rank(self, remedy: str) -> dict[str, tuple[Array, Array]]:
        """By module, its A [r, inputs] and B [outputs, r], the scale in B. UserError where there is more than these."""
        settings = self._settings
        if odd := [*self._whole, *(n for n in self._tensors.names() if n.endswith(MAGNITUDE))]:
            raise UserError(f"holds {odd[0]}, which is no low-rank change", self._where, remedy)
        if settings.get("fan_in_fan_out"):
            raise UserError("its matrices are transposed (fan_in_fan_out)", self._where, remedy)
        found = {}
        for module, embedding in self._low.values():
            down, up = (self._tensors.read(f"{PREFIX}{module}{end}") for end in _ends(embedding))
            found[module] = down, self._scale(module, down.shape[0]) * up
        return found

    def _delta(self, module: str, embedding: bool) -> Array:
        down, up = (self._tensors.read(f"{PREFIX}{module}{end}") for end in _ends(embedding))
        delta = self._scale(module, down.shape[0]) * (up @ down)
        return np.asarray(delta.T if self._turned(embedding) else delta, np.float32)

    def _turned(self, embedding: bool) -> bool:
        """Whether B @ A is the transposed of the weight."""
        return embedding or bool(self._settings.get("fan_in_fan_out"))

    def _scale(self, module: str, rank: int) -> np.float32:
        alpha = self._settings["lora_alpha"]
        for pattern, own in (self._settings.get("alpha_pattern") or {}).items():
            whole = pattern if pattern.startswith("^") else rf"(.*\.)?({pattern})$"  # as peft reads it
            if re.match(whole, module):
                alpha = own
                break
        return np.float32(alpha / (rank**0.5 if self._settings.get("use_rslora") else rank))

    def _check_shapes(self, base: Tensors, where: str) -> None:
        shapes = {name: self._tensors.shape(own) for name, own in self._whole.items()}
        for name, (module, embedding) in self._low.items():
            missing = [end for end in _ends(embedding) if f"{PREFIX}{module}{end}" not in self._tensors]
            if missing:
                raise UserError(f"lacks {PREFIX}{module}{missing[0]}", where, "take the whole adapter")
            down, up = (self._tensors.shape(f"{PREFIX}{module}{end}") for end in _ends(embedding))
            shapes[name] = (down[1], up[0]) if self._turned(embedding) else (up[0], down[1])
        for name, found in shapes.items():
            if found != base.shape(name):
                what = f"{name} is {list(base.shape(name))} in the checkpoint and {list(found)} in the adapter"
                raise UserError(what, where, "take the checkpoint that the adapter was trained on")


def _ends(embedding: bool) -> tuple[str, str]:
    return (EMBEDDING_A, EMBEDDING_B) if embedding else (A, B)


def _settings(folder: Path) -> Mapping[str, Any]:
    path = folder / "adapter_config.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, _ = found["peft_type"], found["lora_alpha"] if found["peft_type"] == "LORA" else None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"is no adapter's ({error})", str(path), "take the original file") from error
    if kind != "LORA":
        raise UserError(f"peft_type {kind} is not merged", str(path), f"{MERGE}, if it can be merged")
    begun = str(found.get("init_lora_weights")).lower()
    odd = [name for name in REFUSED if found.get(name)]
    odd += [f"init_lora_weights={begun}"] if begun.startswith(ALTERING) else []
    if odd:
        raise UserError(f"{odd[0]} is not merged", str(path), MERGE)
    return found


def _told(name: str, where: str) -> tuple[str, str]:
    """Of the adapter's tensor `name`, the module and what it is of it; of one that takes another's place, whose."""
    bare = name.removeprefix(PREFIX)
    for end in (A, B, MAGNITUDE, EMBEDDING_A, EMBEDDING_B):
        if bare.endswith(end):
            return bare.removesuffix(end), end
    if not name.startswith(PREFIX) or ".lora_" in bare or not bare.endswith((".weight", ".bias")):
        raise UserError(f"holds {name}, which is not merged", where, MERGE)
    return bare.replace(".base_layer.", "."), ""
