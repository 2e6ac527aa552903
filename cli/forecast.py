"""What is printed of a build before it begins (compile.forecast), and whether a device holds it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli import cache
from compile import footprint, forecast, plan, quantization, resources, sizes, vision
from compile.forecast import Forecast, Pass
from compile.history import Facts
from compile.report import CLOCK_HZ
from contract.errors import UserError, one_of
from contract.modes import DEVICES

if TYPE_CHECKING:
    from cli.prepare import Prepared, Request
    from exporters.spec import DecoderSpec
    from recipes.recipe import Recipe

_LENGTHS = (8192, 4096, 2048, 1024, 512, 256)


def foresee(prepared: Prepared) -> Forecast:
    """Of the build that `prepared` would be."""
    recipe, spec, options, made = prepared.recipe, prepared.spec, prepared.options, prepared.carried_out()
    jobs, available = prepared.request["jobs"], resources.available_memory()
    return forecast.foresee(recipe, spec, options, made, _facts(prepared), jobs, available, prepared.grid)


def _facts(prepared: Prepared) -> Facts:
    """As cli.pipeline writes them into the manifest, after JSON's manner."""
    recipe, spec, options = prepared.recipe, prepared.spec, prepared.options
    words = {n.name: quantization.word(recipe, spec, options, n.kind, prepared.grid) for n in prepared.plan.nets}
    half = quantization.half(spec, options)
    geometry = json.loads(json.dumps(asdict(sizes.geometry(spec, options, half))))
    model = {
        "model_type": spec.model_type,
        "heads": spec.heads,
        "intermediate": spec.intermediate,
        "tower": vision.tower(spec, options),
    }
    return Facts(model, asdict(options), geometry, words, prepared.toolchain.version)


def told(prepared: Prepared) -> str:
    """The table of `prepared`."""
    return table(foresee(prepared), prepared.plan.folder, device_memory(prepared.request))


def table(made: Forecast, folder: Path, most: int | None) -> str:
    """A line for each figure. `most`: bytes of a device's memory; None where nobody said."""
    lines = [f"forecast of {folder.name}", *(f"  {name:<15}{text}" for name, text in _rows(made, most))]
    return "\n".join(lines)


def _rows(made: Forecast, most: int | None) -> Iterator[tuple[str, str]]:
    took, rest = made.footprint, made.steps - made.measured
    sources = [f"{made.measured} steps as measured in builds beside it"] if made.measured else []
    sources += [f"{rest} steps by rates of another machine"] if rest else []
    yield "nets", f"{made.nets}, by {made.steps} steps"
    yield "time", f"{_time(made.seconds)} up to the bmodel ({', '.join(sources)})"
    yield "memory", f"{_size(made.memory)}, {_size(made.most_memory)} at most"
    yield "disk", f"{_size(made.disk)}, {_size(made.most_disk)} at most"
    yield "bmodel", _size(took.file)
    parts = {
        "weights": took.weights,
        "commands": took.commands,
        "scratch": took.scratch,
        "KV": took.cached,
        "buffers": took.buffers,
    }
    words = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
    fits = "" if most is None else f"; {'fits' if took.device <= most else 'does not fit'} {_size(most)}"
    yield "device memory", f"{_size(took.device)}{fits} ({words})"
    for name, one in made.passes.items():
        yield name, _pass(one)


def _pass(one: Pass) -> str:
    rest = one.nets - one.measured
    if one.cycles is None:
        return f"not known: {rest} of {one.nets} nets were never compiled beside it, and this chip's rates not measured"
    sources = [f"{one.measured} of {one.nets} nets as compiled beside it"] if one.measured else []
    sources += [f"{rest} by bandwidth and products, a bound"] if rest else []
    least = "at least " if rest else ""
    return f"{least}{one.cycles:,} cycles, {one.cycles / CLOCK_HZ * 1000:.3g} ms at 1 GHz ({', '.join(sources)})"


@dataclass(frozen=True)
class Sizes:
    """What decides the memory of a device."""

    recipe: Recipe
    spec: DecoderSpec
    options: plan.Options
    grid: int = 0

    @property
    def device(self) -> int:
        """Bytes. UserError where the options cannot be."""
        made = plan.make_plan(self.recipe, self.spec, Path(), Path(), self.options, True, self.grid)
        return footprint.footprint(self.recipe, self.spec, self.options, made.nets, self.grid).device

    def smaller(self) -> Iterator[tuple[str, plan.Options]]:
        """What takes less, each by itself, as make's variables."""
        known = self.options
        for length in _LENGTHS:
            if length < known.seq_length:
                yield f"SEQ={length}", replace(known, seq_length=length, input_length=None)
        if known.mode != "int4":
            yield "MODE=int4", replace(known, mode="int4")
        if not known.host_embedding:
            yield "EMBED=disk", replace(known, embed="disk")
        for devices in DEVICES:
            if devices > known.devices:
                yield f"DEV={devices}", replace(known, devices=devices)

    def fits(self, most: int) -> bool:
        try:
            return self.device <= most
        except UserError:
            return False


def device_memory(request: Request) -> int | None:
    """Bytes, as --memory says. UserError where it says no size."""
    said = request["memory"]
    return cache.parse(said, "--memory") if said else None


def check_memory(most: int | None, sizes: Sizes) -> None:
    """UserError where a device of `most` bytes (None: nobody said) does not hold the bmodel and a conversation. It
    names what would fit, of each kind the least change."""
    if most is None:
        return
    needed = sizes.device
    if needed > most:
        fitting: dict[str, str] = {}
        for word, options in sizes.smaller():
            if word.partition("=")[0] not in fitting and replace(sizes, options=options).fits(most):
                fitting[word.partition("=")[0]] = word
        remedy = f"use {one_of(fitting.values())}" if fitting else "no single change of SEQ, MODE, EMBED or DEV helps"
        raise UserError(f"a device needs {_size(needed)} and has {_size(most)}", "--memory", remedy)


def _size(count: float) -> str:
    units = ["bytes", "KiB", "MiB", "GiB"]
    while count >= 1024 and len(units) > 1:
        count, _ = count / 1024, units.pop(0)
    return f"{count:.3g} {units[0]}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
