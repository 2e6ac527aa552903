"""What a build is going to take and to give, told before it begins: time, memory, disk, cycles.

What builds beside it have measured of like steps and nets goes before every rate (compile.history). The rates of cycles
are bounds, of bm1684x only: 54.04 bytes of weights and KV a cycle, which no decode net was faster than, and 6030
products a cycle, the best that a prefill net reached (a layer of 7B sizes, int4, 512 positions). Seconds are those of
steps of 0.5B and 7B sizes, two at once on two cores; on another machine they are others. Sizes are
compile.footprint's.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from compile import estimate, quantization
from compile.footprint import Footprint, footprint
from compile.history import Facts, History
from compile.names import group_of
from compile.report import PASSES
from compile.steps import Plan, Step
from contract import graphs

if TYPE_CHECKING:
    from compile.plan import Options
    from exporters.spec import DecoderSpec
    from recipes.recipe import Recipe

# By chip, bytes and products a cycle. Others were not measured.
_RATES = {"bm1684x": (54.04, 6030)}
# Seconds of a step, and per byte of the float32 weights of its group.
_USUAL = {"trace": (6.0, 0.0), "parity": (3.0, 3.8e-8), "bind": (0.1, 6e-9), "transform": (0.9, 2.1e-8)}
_NET, _OTHER = (0.4, 1.5e-8), (0.05, 1.2e-9)
_BEGIN = (3.0, 1.2e-9)  # the same before the first step, per byte of the checkpoint, which is read then


@dataclass(frozen=True)
class Pass:
    """Cycles of one prompt, or of one further token. `measured` nets of `nets` have theirs from a like one that was
    compiled; those of the others are a bound that no net stays below. None: a net has no bound."""

    cycles: int | None
    measured: int
    nets: int


@dataclass(frozen=True)
class Forecast:
    """`seconds`: on the clock, of the build up to its bmodel; `begin`: of these, before the first step. `measured`: how
    many of the `steps` were, in a like build; `busy`: seconds of each, by name. `memory`: bytes of the processes that
    run at once, at most; `largest`: of the largest process, where all steps were measured. `disk`: bytes, at most.
    `passes`: by contract names, prefill and decode."""

    nets: int
    steps: int
    measured: int
    seconds: float
    begin: float
    busy: Mapping[str, float]
    memory: int
    largest: int | None
    disk: int
    footprint: Footprint
    passes: Mapping[str, Pass]


def foresee(
    recipe: Recipe,
    spec: DecoderSpec,
    options: Options,
    plan: Plan,
    facts: Facts,
    jobs: int,
    available: int,
    grid: int = 0,
) -> Forecast:
    """`facts`: of this build. `available`: bytes of memory that its steps may have; `jobs`: of them at once."""
    history = History(plan.folder.parent, facts, spec.layer_kinds)
    known = {step.name: found for step in plan.steps if (found := history.step(step, plan))}
    usual = {step.name: _usual(step, plan, spec) for step in plan.steps if step.name not in known}
    seconds = {**usual, **{name: one.seconds for name, one in known.items()}}
    clock, memory = _schedule(plan.steps, seconds, jobs, available)
    begin = _BEGIN[0] + _BEGIN[1] * 2 * spec.parameters
    counted = _counted(recipe, spec, options, plan, history, grid)
    passes = {name: _through(kinds, plan, counted) for name, kinds in PASSES.items()}
    return Forecast(
        len(plan.nets),
        len(plan.steps),
        len(known),
        begin + clock,
        begin,
        seconds,
        memory,
        max(one.memory for one in known.values()) if len(known) == len(plan.steps) else None,
        plan.disk,
        footprint(recipe, spec, options, plan.nets, grid),
        passes,
    )


def _usual(step: Step, plan: Plan, spec: DecoderSpec) -> float:
    net = next((net for net in plan.nets if net.name == step.name), None)
    first, _, rest = step.name.partition(".")
    base, rate = _NET if net else _USUAL.get(first, _OTHER)
    group = group_of(net) if net else rest
    if first == "transform":
        layered = rest.split(".")[0] in graphs.LAYER_KINDS
        size = estimate.group_bytes(spec, "layer_0") if layered else 0  # the table's is made with a small one
    elif net or first in ("bind", "join"):
        size = 0 if net and net.kind in (graphs.GREEDY_HEAD, graphs.SAMPLE_HEAD) else estimate.group_bytes(spec, group)
    else:
        size = 4 * spec.parameters
    return base + rate * size


def _schedule(steps: Sequence[Step], seconds: Mapping[str, float], jobs: int, available: int) -> tuple[float, int]:
    """Seconds from the first to the last, and bytes of those that ran at once, as compile.executor admits them. A step
    that could take more than there is runs alone, and if it is ours keeps the rest on disk (exporters.parity)."""
    waiting, done, clock, peak = list(steps), set[str](), 0.0, 0
    running: list[tuple[float, str, int]] = []
    while waiting or running:
        for step in list(waiting):
            used = sum(memory for *_, memory in running)
            fits = not running or used + step.memory <= available
            if len(running) < jobs and fits and done.issuperset(step.needs):
                heapq.heappush(running, (clock + seconds[step.name], step.name, step.memory))
                waiting.remove(step)
        peak = max(peak, min(available, sum(memory for *_, memory in running)))
        clock, name, _ = heapq.heappop(running)
        done.add(name)
    return clock, peak


Counted = Mapping[str, tuple[int | None, bool]]


def _counted(recipe: Recipe, spec: DecoderSpec, options: Options, plan: Plan, history: History, grid: int) -> Counted:
    """Of each net by name: cycles, and whether they were measured."""

    def stored(net: graphs.GraphSpec) -> int:
        word = quantization.word(recipe, spec, options, net.kind, grid)
        size = quantization.group_size(spec, options, net.kind, word)
        share = options.devices if net.layer is not None else 1
        return estimate.stored(estimate.group_bytes(spec, group_of(net)) // 4, word, size) // share

    found = {net.name: history.cycles(net) for net in plan.nets}
    return {
        net.name: (_bound(net, spec, options, stored), False) if found[net.name] is None else (found[net.name], True)
        for net in plan.nets
    }


def _bound(
    net: graphs.GraphSpec, spec: DecoderSpec, options: Options, stored: Callable[[graphs.GraphSpec], int]
) -> int | None:
    """Cycles that a net cannot stay below; None where its chip was not measured."""
    if options.chip not in _RATES:
        return None
    rate, products = _RATES[options.chip]
    if net.kind in (graphs.EMBEDDING, graphs.EMBEDDING_CACHE):  # some rows of its table, read and written
        return int(2 * 2 * prod(net.outputs[0].shape) / rate)
    cached = sum(2 * prod(tensor.shape) for tensor in net.inputs[3:]) // options.devices
    length = 1 if net.kind == graphs.LM_HEAD else net.inputs[0].shape[1]
    weights = estimate.group_bytes(spec, group_of(net)) // 4
    if net.layer is not None:
        weights //= options.devices
    return int(max((stored(net) + cached) / rate, weights * length / products))


def _through(kinds: Sequence[str], plan: Plan, counted: Counted) -> Pass:
    own = [counted[net.name] for net in plan.nets if net.kind in kinds]
    counts = [count for count, _ in own]
    whole = sum(count for count in counts if count is not None)
    return Pass(None if None in counts else whole, sum(measured for _, measured in own), len(own))
