"""`bench plan`: what is foretold of a build from a few layers that were compiled, beside what the build then takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cli import bench, forecast, prepare
from compile.forecast import Forecast
from compile.report import PASSES

SAMPLE = 2  # layers; the first and the last are as all the others
ALIKE = 0.15  # how far off a figure may be


def compare(config: Mapping[str, Any], work: Path) -> bool:
    """Print a line for each figure. Whether all are near enough; what is a bound must hold only."""
    few = bench.checkpoint(work / "few", {**config, "num_hidden_layers": SAMPLE}, True, seed=1)
    bench.build(few, work, "sample")
    whole = bench.checkpoint(work / "whole", config, True)
    told = _foresee(whole, work)
    took, _, disk = bench.build(whole, work)
    rows = list(_rows(told, took, disk, bench.manifest(work)))
    print(f"{'':<22}{'foretold':>14}{'measured':>14}{'ratio':>7}")
    for name, foretold, measured, _ in rows:
        print(f"{name:<22}{foretold:>14,.0f}{measured:>14,.0f}{foretold / measured:>7.2f}")
    return all(
        measured <= foretold if bound else abs(foretold / measured - 1) <= ALIKE
        for _, foretold, measured, bound in rows
    )


def _foresee(model: Path, work: Path) -> Forecast:
    chosen = {"model": str(model), "out": str(work / "out"), "verify": "none"}
    return forecast.foresee(
        prepare.prepare(prepare.Request(str(bench.recipe(work, "bench")), chosen), lambda line: None)
    )


def _rows(told: Forecast, took: bench.Cost, disk: bench.Disk, path: Path) -> Iterator[tuple[str, float, float, bool]]:
    """Name, what was foretold, what was measured, and whether the first is a bound."""
    from runtime import bmodel

    made = json.loads(path.read_text(encoding="utf-8"))
    file = path.parent / made["bmodel"]
    (memory,) = bmodel.memory(file)
    yield "seconds", told.seconds, took.wall, False
    if told.largest:
        yield "largest process, MB", told.largest / bench.MB, took.memory / bench.MB, False
    yield "disk at most, MB", told.disk / bench.MB, disk.most / bench.MB, True
    yield "bmodel, MB", told.footprint.file / bench.MB, file.stat().st_size / bench.MB, False
    yield "device memory, MB", told.footprint.loaded / bench.MB, memory.whole / bench.MB, False
    for name, kinds in PASSES.items():
        cycles = sum(net["cycles"] for net in made["nets"].values() if net["kind"] in kinds)
        yield f"{name}, cycles", told.passes[name].cycles or 0, cycles, False
