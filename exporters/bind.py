"""Skeletons to finished ONNX: writes a group's weights into one file and copies the graphs beside it.

A group is the nets that share weights: embedding, head, or one layer. The prefill and the decode graph of a layer
name the same bytes of the same file, so a layer's weights lie on disk once. No torch here, unless the checkpoint
is a .bin file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contract import graphs
from contract.errors import UserError
from exporters import weights as weight_file
from exporters.checkpoint import Checkpoint

BINDINGS, CONSTANTS = "bindings.json", "constants.npz"
Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Weight:
    """One initializer, float32 of `shape` as stored: the checkpoint's `parts` joined by rows, then transposed.

    Without parts it is a constant that tracing computed, such as a rotary table.
    """

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool


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


def bind(checkpoint: Checkpoint, skeletons: Path, group: str, out: Path) -> None:
    """Write the finished nets of `group` (embedding, head or layer_<i>) into `out`.

    UserError where the checkpoint's tensor has another shape than its config.json promises, or holds NaN.
    """
    data = json.loads((skeletons / BINDINGS).read_text(encoding="utf-8"))
    prefix, key, names = "", group, {}
    if group.startswith("layer_"):
        index = int(group.removeprefix("layer_"))
        kind = data["layer_kinds"][index]
        prefix, key = f"{data['layers']}.{index}.", f"layer.{kind}"
        names = {f"block.{kind}": graphs.block_name(index), f"block_cache.{kind}": graphs.block_cache_name(index)}
    bindings = [binding_from_json(b) for b in data["groups"][key]]
    weights = {weight.name: weight for binding in bindings for weight in binding.weights}

    def arrays() -> Iterator[tuple[str, Array]]:
        with np.load(skeletons / CONSTANTS) as constants:
            for name, weight in weights.items():
                value = _assemble(checkpoint, weight, prefix) if weight.parts else constants[f"{key}/{name}"]
                yield name, value

    weight_file.write(arrays(), out / weight_file.NAME)
    for binding in bindings:
        name = names.get(binding.skeleton, binding.skeleton)
        shutil.copyfile(skeletons / f"{binding.skeleton}.onnx", out / f"{name}.onnx")


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
