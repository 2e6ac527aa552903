"""`bench plan`: what is foretold of a build from a few layers that were compiled, beside what the build then takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli import bench, forecast, prepare
from compile.forecast import Forecast
from compile.report import PASSES

SAMPLE = 2  # layers; the first and the last are as all the others
ALIKE = 0.15  # how far off a figure may be


def compare(config: Mapping[str, Any], work: Path) -> bool:
    """Print a line for each figure. Whether all that is foretold from a sample is near enough."""
    whole = bench.checkpoint(work / "whole", config, True)
    first = _foresee(whole, work)
    few = bench.checkpoint(work / "few", {**config, "num_hidden_layers": SAMPLE}, True, seed=1)
    bench.build(few, work, "sample")
    told = _foresee(whole, work)
    built = bench.build(whole, work)
    measured = _measured(built, bench.manifest(work))
    print(f"{'':<22}{'by rates':>14}{'by a sample':>14}{'measured':>14}{'ratios':>13}")
    rows = list(zip(measured, _foretold(first), _foretold(told), measured.values(), strict=True))
    for name, one, two, taken in rows:
        print(f"{name:<22}{one:>14,.0f}{two:>14,.0f}{taken:>14,.0f}{one / taken:>7.2f}{two / taken:>6.2f}", flush=True)
    return all(abs(two / taken - 1) <= ALIKE for _, _, two, taken in rows)


def _foresee(model: Path, work: Path) -> Forecast:
    chosen = {"model": str(model), "out": str(work / "out"), "verify": "none"}
    return forecast.foresee(
        prepare.prepare(prepare.Request(str(bench.recipe(work, "bench")), chosen), lambda line: None)
    )


def _foretold(told: Forecast) -> list[float]:
    memory = [told.memory, told.disk, told.footprint.file, told.footprint.loaded]
    return [told.seconds, *(size / bench.MB for size in memory), *(told.passes[name].cycles or 0 for name in PASSES)]


def _measured(took: bench.Build, path: Path) -> dict[str, float]:
    """By name, in the order of `_foretold`."""
    from runtime import bmodel

    made = json.loads(path.read_text(encoding="utf-8"))
    file = path.parent / made["bmodel"]
    (memory,) = bmodel.memory(file)
    sizes = {"memory": took.memory.most, "disk": took.disk.most, "bmodel": file.stat().st_size}
    sizes |= {"device memory": memory.whole}
    cycles = {
        f"{name}, cycles": sum(net["cycles"] for net in made["nets"].values() if net["kind"] in kinds)
        for name, kinds in PASSES.items()
    }
    return {"seconds": took.cost.wall, **{f"{name}, MB": size / bench.MB for name, size in sizes.items()}, **cycles}
