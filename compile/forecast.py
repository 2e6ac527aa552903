"""What a build is going to take and to give, told before it begins: time, memory, disk, cycles.

What builds beside it have measured of like steps and nets goes before every rate (compile.history). The rates of cycles
are bounds, of bm1684x only: 54.04 bytes of weights and KV a cycle, which no decode net was faster than, and 6030
products a cycle, the best that a prefill net reached (a layer of 7B sizes, int4, 512 positions). Rates of steps are
compile.usual's, sizes compile.footprint's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from compile import estimate, forks, quantization, schedule
from compile.footprint import Footprint, footprint
from compile.history import Facts, History, Measured
from compile.names import group_of
from compile.report import PASSES
from compile.steps import Plan, Step
from compile.usual import usual
from contract import graphs

if TYPE_CHECKING:
    from compile.plan import Options
    from exporters.spec import DecoderSpec
    from recipes.recipe import Recipe

# By chip, bytes and products a cycle. Others were not measured.
_RATES = {"bm1684x": (54.04, 6030)}
_BEGIN = (3.0, 1.2e-9)  # seconds before the first step, and per byte of the checkpoint, which is read then


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
    many of the `steps` were, in a like build; `busy`: seconds of each, by name. `memory`, `disk`: bytes at the peak,
    and `most_memory`, `most_disk`, what they stay below. `passes`: by contract names, prefill and decode."""

    nets: int
    steps: int
    measured: int
    seconds: float
    begin: float
    busy: Mapping[str, float]
    memory: int
    most_memory: int
    disk: int
    most_disk: int
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
    rule = {step.name: usual(step, plan, spec, facts.words, available) for step in plan.steps}
    costs = {step.name: _cost(step, known.get(step.name), rule[step.name]) for step in plan.steps}
    taken = schedule.course(plan, costs, jobs, available)
    begin = _BEGIN[0] + _BEGIN[1] * 2 * spec.parameters
    counted = _counted(recipe, spec, options, plan, history, grid)
    passes = {name: _through(kinds, plan, counted) for name, kinds in PASSES.items()}
    return Forecast(
        len(plan.nets),
        len(plan.steps),
        len(known),
        begin + taken.seconds,
        begin,
        {name: cost.seconds for name, cost in costs.items()},
        taken.memory,
        taken.admitted,
        taken.disk,
        plan.disk,
        footprint(recipe, spec, options, plan.nets, grid),
        passes,
    )


def _cost(step: Step, known: Measured | None, rule: schedule.Cost) -> schedule.Cost:
    """As measured, else as a rule."""
    seconds, memory = (known.seconds, known.memory or rule.memory) if known else (rule.seconds, rule.memory)
    shared = max(forks.SHARED.get(forks.server_of(command), 0) for command in step.commands)
    return schedule.Cost(seconds, [max(0, level - shared) for level in memory], rule.disk)


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
