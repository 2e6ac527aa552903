"""LoRA adapters that are put in at run time: which modules of a layer take one, and an adapter as the nets take it.

Only low-rank changes of the layers' own linear modules can be; what else an adapter changes lies fixed in the bmodel.
No torch here, and numpy for adapters only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from contract.errors import UserError
from contract.lora import Adapted
from exporters.architecture import find
from exporters.parts import LAYER_WEIGHTS
from exporters.rows import Rows
from exporters.spec import DecoderSpec

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
BUILD = "build with ADAPTER= in place of LORA="


@dataclass(frozen=True)
class Place:
    """A linear module of ours at `at`, made of `rows` (all, where there are none) of the checkpoint's `parts`; paths
    are relative to the layer. `outputs`: of each part."""

    at: str
    parts: tuple[str, ...]
    inputs: int
    outputs: tuple[int, ...]
    rows: Rows = ()

    def adapted(self, rank: int) -> Adapted:
        """Each part has a rank of its own."""
        count = sum(len(range(*r)) for r in self.rows) or sum(self.outputs)
        return Adapted(self.at.rpartition(".")[2], self.inputs, rank * len(self.parts), count)


def places(spec: DecoderSpec) -> tuple[Place, ...]:
    """Those of one layer, on one device. UserError where layers are not made of Llama's modules."""
    architecture = find(spec.model_type)
    if not {*LAYER_WEIGHTS} <= {*architecture.layer_weights} or architecture.remote or spec.experts:
        what = f"layers of {spec.model_type} models are not made of the modules that take an adapter"
        raise UserError(what, "--lora", BUILD)
    width, kv, hidden = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.hidden
    outputs = {"q_proj": width, "k_proj": kv, "v_proj": kv, "o_proj": hidden}
    (swap,) = architecture.swaps
    found = []
    for name, source in swap.sources(spec, 1).items():
        if source.parts[0] in outputs:  # else a norm
            parts = tuple(f"{swap.at}.{part}" for part in source.parts)
            inputs = width if name == "out" else hidden
            rows = tuple(outputs[part] for part in source.parts)
            found.append(Place(f"{swap.at}.{name}", parts, inputs, rows, source.rows))
    for name, sizes in (
        ("gate_proj", (hidden, spec.intermediate)),
        ("up_proj", (hidden, spec.intermediate)),
        ("down_proj", (spec.intermediate, hidden)),
    ):
        found.append(Place(f"mlp.{name}", (f"mlp.{name}",), sizes[0], (sizes[1],)))
    return tuple(found)


def adapted(spec: DecoderSpec, rank: int | None) -> tuple[Adapted, ...]:
    """The same as the contract says it; none without a rank."""
    return tuple(place.adapted(rank) for place in places(spec)) if rank else ()


def read(folder: Path, spec: DecoderSpec, rank: int) -> dict[int, dict[str, Array]]:
    """The adapter in `folder` as inputs of each layer's nets, float32, built for `rank`; its scale is in them.

    UserError where it is no such adapter, changes what cannot be, has a higher rank, or does not fit the model.
    """
    from exporters.checkpoint import adapter_of

    layers, known = find(spec.model_type).layers, places(spec)
    shapes = {
        f"{layers}.{i}.{part}.weight": (outputs, place.inputs)
        for i in range(spec.layers)
        for place in known
        for part, outputs in zip(place.parts, place.outputs, strict=True)
    }
    fixed = (", which lies fixed in the bmodel", BUILD)
    found = adapter_of(folder, _Shapes(shapes), absent=fixed).low_rank(BUILD)
    for module, (down, _) in found.items():
        if down.shape[0] > rank:
            what = f"{module} has rank {down.shape[0]}, and the bmodel takes {rank}"
            raise UserError(what, str(folder), f"build with LORA={down.shape[0]}")
    return {i: _layer(known, found, f"{layers}.{i}.", rank) for i in range(spec.layers)}


def _layer(
    known: tuple[Place, ...], found: Mapping[str, tuple[Array, Array]], prefix: str, rank: int
) -> dict[str, Array]:
    import numpy as np

    inputs: dict[str, Array] = {}
    for place in known:
        sizes = place.adapted(rank)
        a = np.zeros((sizes.rank, sizes.inputs), np.float32)
        b = np.zeros((sizes.rank, sum(place.outputs)), np.float32)
        starts = np.cumsum((0, *place.outputs))
        for number, part in enumerate(place.parts):
            if prefix + part in found:
                down, up = found[prefix + part]
                taken = slice(number * rank, number * rank + len(down))
                a[taken], b[taken, starts[number] : starts[number + 1]] = down, up.T
        if place.rows:
            b = np.concatenate([b[:, start:stop:step] for start, stop, step in place.rows], axis=1)
        inputs |= {sizes.a: a, sizes.b: np.ascontiguousarray(b)}
    return inputs


class _Shapes:
    """Stands for a checkpoint that is not here any more (exporters.adapter.Tensors)."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def names(self) -> list[str]:
        return list(self._shapes)

    def read(self, name: str) -> Array:
        raise KeyError(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]
