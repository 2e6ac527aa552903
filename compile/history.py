"""What builds that stand beside each other have measured: cycles of nets, seconds and memory of steps. It holds for
another build where all is equal that decides it: sizes, chip, how weights are stored, the tools."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from compile.job import Record, read_record
from compile.steps import Plan, Step
from contract import graphs
from contract import manifest as manifests
from contract.errors import UserError
from contract.manifest import Manifest

_SHAPE = ("hidden", "kv_heads", "head_dim", "v_head_dim", "axes", "half")
_LENGTHS = ("seq_length", "input_length")
_TARGET = ("chip", "devices", "route")
_MODEL = ("model_type", "heads", "intermediate")
# Options beside those that matter to a net of the kind; None is for nets of layers.
_MATTERS: dict[str | None, tuple[str, ...]] = {
    None: ("group_size", "symmetric", "dynamic"),
    graphs.LM_HEAD: ("group_size", "symmetric", "sample"),
    graphs.EMBEDDING: ("dynamic",),
    graphs.VIT: ("dynamic_vit",),
}
_STEPS = ("sample", "history", "embed", "dynamic", "adapter", "max_pixels", *_TARGET)
# Steps that do something with all layers of a model (a trace has one of each kind), and with quantised weights.
_ALL, _STORED = ("parity", "table", "combine", "convert"), ("join", "combine", "convert")


@dataclass(frozen=True)
class Facts:
    """What decides a build's figures, as its manifest says it. `words`: model_deploy's for the weights of each net,
    by name."""

    model: Mapping[str, Any]
    options: Mapping[str, Any]
    geometry: Mapping[str, Any]
    words: Mapping[str, str]
    compiler: str

    @classmethod
    def of(cls, made: Manifest) -> Facts:
        words = {name: str(net["quantize"]) for name, net in made.nets.items()}
        return cls(made.model, made.options, made.geometry, words, made.tools.get("tpu_mlir", ""))

    def net(self, name: str, kind: str) -> tuple[Any, ...]:
        """All that decides the cycles of a net, but for which layer it is of."""
        layered = kind in graphs.LAYER_KINDS
        own: dict[str, Any] = {"tower": self.model.get("tower")} if kind in (graphs.VIT, graphs.ADD) else {}
        own |= {key: self.options.get(key) for key in (*_TARGET, *_MATTERS.get(None if layered else kind, ()))}
        own |= {key: self.geometry.get(key) for key in (*_SHAPE, *_LENGTHS)}
        own |= {key: self.model.get(key) for key in _MODEL} if layered else {"vocab": self.geometry.get("vocab")}
        if kind in (graphs.LM_HEAD, graphs.EMBEDDING_CACHE, graphs.GREEDY_HEAD):  # of one position
            own |= dict.fromkeys(_LENGTHS)
        if not self.words.get(name, "").startswith("W4"):
            own.pop("group_size", None)
        return (kind, self.words.get(name), self.compiler, str(own))

    def step(self, name: str) -> tuple[Any, ...]:
        """All that decides how long a step takes that makes no net, but for which layer it is for."""
        first = re.split(r"[._]", name)[0]
        options = {key: self.options.get(key) for key in (*_STEPS, *(("mode",) if first in _STORED else ()))}
        sizes = {key: value for key, value in self.geometry.items() if key != "layers" or first in _ALL}
        return (first, str([options, sorted(sizes.items()), [self.model.get(key) for key in _MODEL]]))


@dataclass(frozen=True)
class Measured:
    """`seconds`: wall time of the step. `memory`: bytes of its processes in equal parts of that time; none where they
    are not known."""

    seconds: float
    memory: tuple[int, ...]


class History:
    """Of the builds in the folder `out`; `facts` and `layers`, a number for each distinct graph, are of the one that
    is to be known beforehand."""

    def __init__(self, out: Path, facts: Facts, layers: tuple[int, ...]) -> None:
        self._facts, self._layers = facts, layers
        self._builds = [(path, made, Facts.of(made)) for path, made in _builds(out)]

    def cycles(self, net: graphs.GraphSpec) -> int | None:
        """Of a net like this; None where none stands."""
        for _, made, facts in self._builds:
            for name in self._alike(net, made, facts):
                if (count := made.nets[name]["cycles"]) is not None:
                    return int(count)
        return None

    def step(self, step: Step, plan: Plan) -> Measured | None:
        """Of steps like this; None where none was done."""
        net = next((net for net in plan.nets if net.name == step.name), None)
        found = list[Record]()
        for folder, made, facts in self._builds:
            names = self._alike(net, made, facts) if net else self._steps(step.name, facts)
            found += filter(None, (read_record(folder / "work" / name) for name in names))
        if not found:
            return None
        largest = max(found, key=lambda record: record.memory)
        memory = largest.profile or [largest.memory] * (largest.memory > 0)
        return Measured(median(record.seconds for record in found), tuple(memory))

    def _alike(self, net: graphs.GraphSpec, made: Manifest, facts: Facts) -> Iterator[str]:
        wanted = self._facts.net(net.name, net.kind)
        for name, known in made.nets.items():
            alike = known["kind"] == net.kind and self._kind(known["layer"]) == self._kind(net.layer)
            if alike and facts.net(name, net.kind) == wanted:
                yield name

    def _kind(self, layer: int | None) -> int:
        return self._layers[layer] if layer is not None and layer < len(self._layers) else -1

    def _steps(self, name: str, facts: Facts) -> list[str]:
        if facts.step(name) != self._facts.step(name):
            return []
        group, found = name.rpartition("_")[0], re.fullmatch(r"(?:bind|join)\.layer_(\d+)", name)
        if not found:
            return [name]
        kind = self._layers[int(found[1])]
        return [f"{group}_{i}" for i, other in enumerate(self._layers) if other == kind]


def _builds(out: Path) -> Iterator[tuple[Path, Manifest]]:
    """The newest first. One whose manifest cannot be read, or is of another version, tells nothing."""
    for path in sorted(out.glob(f"*/{manifests.NAME}"), key=_changed, reverse=True):
        try:
            yield path.parent, manifests.read(path.parent)
        except UserError:
            continue


def _changed(path: Path) -> float:
    """When, in seconds; 0 for one that another build has just removed."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
