"""Skeletons to finished ONNX: writes a group's weights into one file and copies the graphs beside it.

A group is the nets that share weights: embedding, head, or one layer. The prefill and the decode graph of a layer
name the same bytes of the same file, so a layer's weights lie on disk once. No torch here, unless the checkpoint
is a .bin file.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contract import graphs
from contract.errors import UserError
from exporters import grids
from exporters import weights as weight_file
from exporters.architecture import Source
from exporters.checkpoint import PIECE, Checkpoint
from exporters.rows import Rows

BINDINGS, CONSTANTS = "bindings.json", "constants.npz"
Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Weight:
    """One initializer, float32 of `shape` as stored: the checkpoint's `parts` joined along `axis`, of which `rows`
    (strided ranges; all, where there are none) are taken, divided by their length if `normalised`, brought into
    `shape` if `reshaped`, then transposed if `transposed`.

    In `parts`, "{layer}" stands for the layer's own prefix, or the tower's. Without parts it is a constant that tracing
    computed, such as a rotary table.
    """

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    rows: Rows = ()
    axis: int = 0
    normalised: bool = False
    reshaped: bool = False
    transposed: bool = False


@dataclass(frozen=True)
class Binding:
    """A skeleton `<skeleton>.onnx` and the weights it names."""

    skeleton: str
    weights: tuple[Weight, ...]

    def as_json(self) -> dict[str, Any]:
        return {"skeleton": self.skeleton, "weights": [w.__dict__ for w in self.weights]}


def binding_from_json(data: dict[str, Any]) -> Binding:
    return Binding(data["skeleton"], tuple(_weight_from_json(w) for w in data["weights"]))


def _weight_from_json(data: dict[str, Any]) -> Weight:
    rows = tuple((start, stop, step) for start, stop, step in data["rows"])
    return Weight(**data | {"parts": tuple(data["parts"]), "shape": tuple(data["shape"]), "rows": rows})


def weight_of(name: str, shape: Sequence[int], sources: Mapping[str, Source], experts: int) -> Weight:
    """Where parameter `name` of a layer comes from: by the source of the module nearest above it, else by its name."""
    path, _, leaf = name.rpartition(".")
    source, rest = Source((path,)), ""
    for place in _upwards(path):
        if place in sources:
            source, rest = sources[place], path.removeprefix(place)
            break
    parts = tuple(part.replace("{expert}", str(i)) for part in source.parts for i in range(_copies(part, experts)))
    names = tuple("{layer}" + ".".join(filter(None, (f"{part}{rest}", leaf))) for part in parts)
    return Weight(name, names, tuple(shape), source.rows, source.axis)


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _copies(part: str, experts: int) -> int:
    return experts if "{expert}" in part else 1


def bind(checkpoint: Checkpoint, skeletons: Path, group: str, out: Path, with_grids: bool = False) -> None:
    """Write the finished nets of `group` (embedding, head, vit or layer_<i>) into `out`; `with_grids`: exporters.grids.

    UserError where the checkpoint's tensor has another shape than its config.json promises, or holds NaN.
    """
    data = json.loads((skeletons / BINDINGS).read_text(encoding="utf-8"))
    prefix, key, names = data["tower"] if group == graphs.VIT else "", group, {}
    if group.startswith("layer_"):
        index = int(group.removeprefix("layer_"))
        kind = data["layer_kinds"][index]
        prefix, key = f"{data['layers']}.{index}.", f"layer.{kind}"
        names = {f"{net}.{kind}": graphs.layer_name(net, index) for net in graphs.LAYER_KINDS}
    bindings = [binding_from_json(b) for b in data["groups"][key]]
    weights = {weight.name: weight for binding in bindings for weight in binding.weights}

    def arrays() -> Iterator[tuple[str, Array]]:
        with np.load(skeletons / CONSTANTS) as constants:
            for name, weight in weights.items():
                value = assemble(checkpoint, weight, prefix) if weight.parts else constants[f"{key}/{name}"]
                yield name, value

    weight_file.write(arrays(), out / weight_file.NAME)
    if with_grids:
        grids.write(checkpoint, weights.values(), prefix, out / grids.NAME)
    for binding in bindings:
        name = names.get(binding.skeleton, binding.skeleton)
        shutil.copyfile(skeletons / f"{binding.skeleton}.onnx", out / f"{name}.onnx")


@contextlib.contextmanager
def bound(checkpoint: Checkpoint, skeletons: Path, group: str) -> Iterator[Path]:
    """A folder in the working directory that holds what `bind` writes, for as long as it is used."""
    with tempfile.TemporaryDirectory(dir=".", prefix="bound.") as folder:
        bind(checkpoint, skeletons, group, Path(folder))
        yield Path(folder)


def assemble(checkpoint: Checkpoint, weight: Weight, prefix: str) -> Array:
    """The weight as `Weight` says; `prefix` is the layer's, with a dot at its end.

    UserError where a tensor is missing, has another shape than config.json promises, or holds NaN.
    """
    names = [part.replace("{layer}", prefix) for part in weight.parts]
    checkpoint.require(names)
    as_it_is = len(names) == 1 and not (weight.rows or weight.normalised or weight.reshaped)
    early = weight.transposed and as_it_is  # else a table would be there twice
    parts = [checkpoint.read(name, early) for name in names]
    value = np.concatenate(parts, axis=weight.axis) if len(parts) > 1 else parts[0]
    del parts
    if weight.rows:
        value = np.concatenate([value[start:stop:step] for start, stop, step in weight.rows])
    if weight.normalised:
        value = value / np.maximum(np.linalg.norm(value, axis=-1, keepdims=True), 1e-12)
    if weight.reshaped:
        value = value.reshape(weight.shape[::-1] if weight.transposed else weight.shape)
    value = np.ascontiguousarray(value.T) if weight.transposed and not early else value
    if value.shape != weight.shape:
        found, wanted = list(value.shape), list(weight.shape)
        raise UserError(
            f"{' + '.join(names)} has shape {found}, config.json asks for {wanted}",
            str(checkpoint.folder),
            "the checkpoint and its config.json do not belong together",
        )
    if not _finite(value):
        raise UserError(f"{names[0]} holds NaN or infinity", str(checkpoint.folder), "download the file again")
    return value


def _finite(value: Array) -> bool:
    """By pieces: the answers for all of a table at once would be a quarter of its size."""
    flat = value.reshape(-1)
    return all(np.isfinite(flat[start : start + PIECE]).all() for start in range(0, flat.size, PIECE))
