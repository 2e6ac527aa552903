"""Skeletons to finished ONNX: writes a group's weights into one file and copies the graphs beside it.

A group is the nets that share weights: embedding, head, or one layer. The prefill and the decode graph of a layer
name the same bytes of the same `weights.bin`, so a layer's weights lie on disk once. No torch here, unless the
checkpoint is a .bin file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contract import graphs
from contract.errors import UserError
from exporters.checkpoint import Checkpoint

ALIGN = 4096  # a page, so that ONNX Runtime can map the file
WEIGHTS_FILE = "weights.bin"


@dataclass(frozen=True)
class Weight:
    """One initializer: float32 `shape` as stored, made of the checkpoint's `parts` joined by rows, then transposed."""

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool


@dataclass(frozen=True)
class Place:
    """Bytes of WEIGHTS_FILE."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class Binding:
    """A skeleton `<skeleton>.onnx` and the weights it names."""

    skeleton: str
    weights: tuple[Weight, ...]

    def as_json(self) -> dict[str, Any]:
        return {"skeleton": self.skeleton, "weights": [w.__dict__ for w in self.weights]}


def binding_from_json(data: dict[str, Any]) -> Binding:
    weights = (Weight(w["name"], tuple(w["parts"]), tuple(w["shape"]), w["transposed"]) for w in data["weights"])
    return Binding(data["skeleton"], tuple(weights))


def layout(weights: Iterable[Weight]) -> dict[str, Place]:
    """Where each weight lies, in the order given, aligned to pages."""
    places, offset = {}, 0
    for weight in weights:
        nbytes = 4 * int(np.prod(weight.shape, dtype=np.int64))
        places[weight.name] = Place(offset, nbytes)
        offset += -(-nbytes // ALIGN) * ALIGN
    return places


def bind(checkpoint: Checkpoint, skeletons: Path, group: str, out: Path) -> None:
    """Write the finished nets of `group` (embedding, head or layer_<i>) into `out`.

    UserError where the checkpoint's tensor has another shape than its config.json promises.
    """
    data = json.loads((skeletons / "bindings.json").read_text(encoding="utf-8"))
    prefix, key, names = "", group, {}
    if group.startswith("layer_"):
        index = int(group.removeprefix("layer_"))
        kind = data["layer_kinds"][index]
        prefix, key = f"{data['layers']}.{index}.", f"layer.{kind}"
        names = {f"block.{kind}": graphs.block_name(index), f"block_cache.{kind}": graphs.block_cache_name(index)}
    bindings = [binding_from_json(b) for b in data["groups"][key]]
    weights = {weight.name: weight for binding in bindings for weight in binding.weights}
    _write_weights(checkpoint, list(weights.values()), prefix, out / WEIGHTS_FILE)
    for binding in bindings:
        name = names.get(binding.skeleton, binding.skeleton)
        shutil.copyfile(skeletons / f"{binding.skeleton}.onnx", out / f"{name}.onnx")


def _write_weights(checkpoint: Checkpoint, weights: list[Weight], prefix: str, path: Path) -> None:
    with path.open("wb") as file:
        for weight in weights:
            file.seek(-(-file.tell() // ALIGN) * ALIGN)
            _assemble(checkpoint, weight, prefix).tofile(file)


def _assemble(checkpoint: Checkpoint, weight: Weight, prefix: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    names = [part.replace("{layer}", prefix) for part in weight.parts]
    parts = [checkpoint.read(name) for name in names]
    value = np.concatenate(parts) if len(parts) > 1 else parts[0]
    value = np.ascontiguousarray(value.T) if weight.transposed else value
    if value.shape != weight.shape:
        found, wanted = list(value.shape), list(weight.shape)
        raise UserError(
            f"{' + '.join(names)} has shape {found}, config.json asks for {wanted}",
            str(checkpoint.folder),
            "the checkpoint and its config.json do not belong together",
        )
    if not np.isfinite(value).all():
        raise UserError(f"{names[0]} holds NaN or infinity", str(checkpoint.folder), "download the file again")
    return value
