"""Writes `report.html`: what a build made and how well it does, for a person to read. One file, no network, no script.

It judges nothing anew: every figure comes from the manifest, the bars from contract.ladder.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from compile import llm_convert_cycles
from compile.charts import LineChart, Point, line_chart, shown
from contract import graphs, ladder
from contract.folders import write_whole
from contract.ladder import Score
from contract.manifest import Manifest

NAME = "report.html"
CLOCK_HZ = 1e9
SLOWEST = 12
NONE = "n/a"
# The entry of a manifest's seconds that is no step but the whole build's time on the clock.
WALL = "wall"

RUNGS = {
    ladder.PATCHED: "Patched torch against Hugging Face",
    ladder.ONNX: "ONNX Runtime against patched torch",
    ladder.CHIP: "Chip or simulator against ONNX Runtime",
    ladder.TOKENS: "Tokens of the whole bmodel against Hugging Face",
}
PREFILL, DECODE = "prefill", "decode"
# The nets that one prompt, and one further token, pass through.
# greedy_head and sample_head decide their work at run time, so the compiler counts no cycles for them.
PASSES = {
    PREFILL: (graphs.EMBEDDING, graphs.BLOCK, graphs.LM_HEAD),
    DECODE: (graphs.EMBEDDING_CACHE, graphs.BLOCK_CACHE, graphs.LM_HEAD),
}


@dataclass(frozen=True)
class Kind:
    """All nets of one kind. `cycles`, `bytes`: their sums, None where a net has none; `low`, `high`: cycles of one.

    `theirs`: cycles of one such net under llm_convert.
    """

    name: str
    count: int
    quantize: str
    cycles: int | None
    low: int | None
    high: int | None
    bytes: int | None
    theirs: int | None

    @property
    def change(self) -> float | None:
        """Our cycles of one net against llm_convert's: -0.02 is 2 % fewer."""
        return self.cycles / self.count / self.theirs - 1 if self.cycles and self.theirs else None


@dataclass(frozen=True)
class Bar:
    """`share`: of the longest bar or of the whole, 0 to 1."""

    label: str
    share: float
    value: str


@dataclass(frozen=True)
class Rung:
    """`worst`: the score nearest to its bar, or farthest beyond it."""

    name: str
    title: str
    scores: tuple[Score, ...]
    worst: Score
    failed: int


def write_report(manifest: Manifest, folder: Path) -> None:
    """Writes `folder`/report.html: whole or not at all. OSError where the folder cannot be written."""
    write_whole(folder / NAME, render(manifest, _size(folder / manifest.bmodel)))


def render(manifest: Manifest, bmodel_bytes: int | None) -> str:
    """The page as text. `bmodel_bytes`: size of the bmodel file, None where there is none."""
    # Escaping is set, not inferred: by its name, a .j2 file would not get it.
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "size": _bytes, "time": _time, "percent": _percent}
    environment.globals |= {"value_of": lambda s: _score(s, s.value), "bar_of": lambda s: _score(s, s.bar)}
    scores = [ladder.score_from_json(data) for data in manifest.parity]
    kinds = _kinds(manifest)
    steps = {name: seconds for name, seconds in manifest.seconds.items() if name != WALL}
    return environment.get_template("report.html.j2").render(
        m=manifest,
        bmodel_bytes=bmodel_bytes,
        facts=_facts(manifest),
        failure=ladder.first_failure(scores),
        rung_titles=RUNGS,
        rungs=_rungs(scores),
        tokens=next((s for s in scores if s.rung == ladder.TOKENS), None),
        charts=list(_charts(scores)),
        kinds=kinds,
        passes={name: (_pass_cycles(kinds, name), _pass_bars(kinds, name)) for name in PASSES},
        clock=CLOCK_HZ,
        compared_with=llm_convert_cycles.SOURCE if any(k.theirs for k in kinds) else None,
        size_bars=_bars([(_label(k), k.bytes) for k in kinds if k.bytes], _bytes),
        time_bars=_bars(_slowest(steps), _time),
        steps=steps,
        wall=manifest.seconds.get(WALL),
        nets=sorted(manifest.nets.items(), key=_net_order),
    )


def _rungs(scores: list[Score]) -> list[Rung]:
    rungs = []
    for name in ladder.RUNGS:
        own = tuple(s for s in scores if s.rung == name)
        if own:
            rungs.append(Rung(name, RUNGS[name], own, max(own, key=lambda s: s.excess), sum(not s.passed for s in own)))
    return rungs


def _charts(scores: list[Score]) -> Iterator[LineChart]:
    """One chart per rung that has scores per layer: cosine on the chip, then the float32 rungs."""
    for rung in (ladder.CHIP, ladder.ONNX, ladder.PATCHED):
        metric = "cosine" if rung == ladder.CHIP else "max_abs"
        series: dict[str, list[Point]] = {PREFILL: [], DECODE: []}
        bars = []
        for s in scores:
            if s.rung == rung and s.layer is not None and s.metric == metric:
                name = DECODE if s.net.startswith(graphs.BLOCK_CACHE) else PREFILL
                series[name].append(Point(s.layer, s.value, s.passed))
                bars.append(s.bar)
        if bars:
            ordered = {name: sorted(values, key=lambda p: p.x) for name, values in series.items()}
            note = "cosine per layer" if metric == "cosine" else "largest absolute difference per layer"
            yield line_chart(RUNGS[rung], note, ordered, bars[0], log=metric == "max_abs")


def _kinds(manifest: Manifest) -> list[Kind]:
    sizes = {**manifest.model, **manifest.options, **manifest.geometry}
    kinds = []
    for name in graphs.KINDS:
        nets = [net for net in manifest.nets.values() if net.get("kind") == name]
        if nets:
            cycles, size = ([net.get(key) for net in nets] for key in ("cycles", "bytes"))
            counted = [c for c in cycles if c is not None]
            kinds.append(
                Kind(
                    name,
                    len(nets),
                    ", ".join(sorted({str(net.get("quantize", "")) for net in nets})),
                    _sum(cycles),
                    min(counted, default=None),
                    max(counted, default=None),
                    _sum(size),
                    llm_convert_cycles.find(name, sizes),
                )
            )
    return kinds


def _sum(values: list[int | None]) -> int | None:
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) else None


def _pass_kinds(kinds: list[Kind], name: str) -> list[Kind]:
    return [k for k in kinds if k.name in PASSES[name]]


def _pass_cycles(kinds: list[Kind], name: str) -> int | None:
    own = _pass_kinds(kinds, name)
    return _sum([k.cycles for k in own]) if own else None


def _pass_bars(kinds: list[Kind], name: str) -> list[Bar]:
    total = _pass_cycles(kinds, name)
    if not total:
        return []
    own = [(k, k.cycles or 0) for k in _pass_kinds(kinds, name)]
    return [Bar(_label(k), c / total, f"{_number(c)} · {_percent(c / total)}") for k, c in own]


def _label(kind: Kind) -> str:
    return f"{kind.count} x {kind.name}" if kind.count > 1 else kind.name


def _bars(rows: list[tuple[str, Any]], show: Any) -> list[Bar]:
    longest = max((value for _, value in rows), default=0)
    return [Bar(label, value / longest if longest else 0.0, show(value)) for label, value in rows]


def _slowest(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    """Steps that differ in their layer's number only stand as one row, with their sum."""
    families: dict[str, list[float]] = defaultdict(list)
    for name, value in seconds.items():
        families[re.sub(r"[_.-]?\d+$", "", name)].append(value)
    rows = [(f"{len(v)} x {name}" if len(v) > 1 else name, sum(v)) for name, v in families.items()]
    return sorted(rows, key=lambda row: -row[1])[:SLOWEST]


def _facts(manifest: Manifest) -> dict[str, dict[str, str]]:
    """The manifest's free-form parts as flat tables of words."""
    model = {"recipe": manifest.recipe, **manifest.model}
    parts = {"Model": model, "Options": manifest.options, "Sizes": manifest.geometry, "Tools": manifest.tools}
    return {title: dict(_flat(part)) for title, part in parts.items()}


def _flat(part: Mapping[str, Any], lead: str = "") -> Iterator[tuple[str, str]]:
    for key, value in part.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{lead}{key} ")
        elif value not in (None, ""):
            yield f"{lead}{key}".replace("_", " "), str(value)


def _net_order(item: tuple[str, dict[str, Any]]) -> tuple[int, int, str]:
    name, net = item
    kind, layer = net.get("kind"), net.get("layer")
    rank = graphs.KINDS.index(kind) if kind in graphs.KINDS else len(graphs.KINDS)
    return rank, -1 if layer is None else layer, name


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _score(score: Score, value: float) -> str:
    return _percent(value) if score.metric == "agreement" and math.isfinite(value) else shown(value)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _bytes(value: float | None) -> str:
    if value is None:
        return NONE
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
