"""What a step takes as a rule, where none like it was measured.

Seconds are those of steps of 0.5B and 7B sizes, two at once on two cores; on another machine they are others. Memory is
that of the step's processes at the same sizes, tpu-mlir 1.30.2 in modes int4, int8 and bf16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compile import estimate
from compile.names import group_of, is_weightless
from compile.schedule import Cost
from compile.steps import Plan, Step
from contract import graphs
from contract.ladder import MEMORY_SHARE

if TYPE_CHECKING:
    from exporters.spec import DecoderSpec

# Seconds, and seconds per byte of the float32 weights that a step works on.
_SECONDS = {"trace": (6.0, 0.0), "parity": (3.0, 3.8e-8), "bind": (0.1, 6e-9)}
_SECONDS |= {"transform": (0.9, 2.1e-8), "net": (0.4, 1.5e-8)}
_SECONDS_OF_OTHERS = (0.05, 1.2e-9)


@dataclass(frozen=True)
class _Memory:
    """Bytes at the peak: `least`, and `rate` per byte of those weights. `shape`: what of it in equal parts of the
    step's time."""

    least: float
    rate: float
    shape: tuple[float, ...] = (1.0,)


_MEMORY = {"trace": _Memory(3.6e8, 0.0), "bind": _Memory(4e7, 1.15)}
_MEMORY |= {"transform": _Memory(5e8, 3.95, (0.75, 1, 0.9, 0.9, 1, 1, 1, 0.2))}
_MEMORY |= {"net": _Memory(6.5e7, 1.9, (0.75, 0.95, 0.97, 0.98, 0.97, 0.98, 1, 0.6))}
_MEMORY_OF_OTHERS = _Memory(5e7, 0.0)
# Where the weights are one matrix; of nets quantised in groups, and not.
_BIND_TABLE = _Memory(9.5e7, 1.5)
_QUANTISED_TABLE = _Memory(6.5e7, 3.78, (0.47, 0.8, 0.8, 0.8, 0.8, 0.94, 1, 0.22))
_PLAIN_TABLE = _Memory(6.5e7, 3.0, (0.46, 0.81, 0.84, 1, 0.18, 0.68, 0.51, 0.35))
# The parity step has all weights, or what of them fits into its share of the memory (exporters.reference), and works on
# the vocabulary's table.
_PARITY, _PARITY_TABLE = 5e8, 1.5
# What is written by when, of what a step writes. model_deploy quantises first.
_DISK, _DISK_QUANTISED, _DISK_PLAIN = (1.0,), (0, 0, 0, 0, 0, 0, 1, 1), (0, 0, 0, 0.5, 0.7, 0.5, 0.5, 1)


def usual(step: Step, plan: Plan, spec: DecoderSpec, words: Mapping[str, str], available: int) -> Cost:
    """`words`: model_deploy's for the weights of each net. `available`: bytes of memory that there are."""
    if step.name == "convert":
        return _convert(step, plan, spec)
    net = next((net for net in plan.nets if step.deploys and net.name == step.name), None)
    kind = "net" if net else step.name.partition(".")[0]
    size = _weights(step, net, spec)
    seconds, rate = _SECONDS.get(kind, _SECONDS_OF_OTHERS)
    memory = _memory(kind, step, net, words)
    peak = memory.least + memory.rate * size
    if kind == "parity":
        table = _PARITY_TABLE * estimate.group_bytes(spec, "embedding")
        peak = _PARITY + min(size, MEMORY_SHARE * available) + table
    written = _DISK if not net else _DISK_QUANTISED if words[net.name].startswith("W") else _DISK_PLAIN
    return Cost(
        seconds + rate * size,
        [int(part * peak) for part in memory.shape],
        [int(part * step.disk) for part in written],
    )


def _convert(step: Step, plan: Plan, spec: DecoderSpec) -> Cost:
    """Of llm_convert, which works on four nets at once."""
    own = {one.name for one in plan.steps if one.deploys}
    nets = [estimate.group_bytes(spec, group_of(net)) for net in plan.nets if net.name not in own]
    memory = 1.2e9 + sum(_PLAIN_TABLE.least + _PLAIN_TABLE.rate * size for size in sorted(nets)[-4:])
    return Cost(2.0 * len(nets) + 1.6e-8 * sum(nets), [int(memory)], [step.disk])


def _weights(step: Step, net: graphs.GraphSpec | None, spec: DecoderSpec) -> int:
    """Bytes of the weights that it works on, in float32."""
    first, _, rest = step.name.partition(".")
    if net:
        return 0 if is_weightless(net) else estimate.group_bytes(spec, group_of(net))
    if first == "transform":  # a table's is made with a small one
        return estimate.group_bytes(spec, "layer_0") if rest.split(".")[0] in graphs.LAYER_KINDS else 0
    return estimate.group_bytes(spec, rest) if first in ("bind", "join") else 4 * spec.parameters


def _memory(kind: str, step: Step, net: graphs.GraphSpec | None, words: Mapping[str, str]) -> _Memory:
    if net and net.layer is None:
        if group_of(net) == graphs.VIT or is_weightless(net):  # which is transformed in the same step
            return _MEMORY["transform"]
        return _QUANTISED_TABLE if words[net.name].startswith("W") else _PLAIN_TABLE
    if step.name in ("bind.embedding", "bind.head"):
        return _BIND_TABLE
    return _MEMORY.get(kind, _MEMORY_OF_OTHERS)
