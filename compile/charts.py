"""Where the marks of a line chart lie. Numbers only: the template draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass

WIDTH, HEIGHT = 440, 210
LEFT, RIGHT, TOP, BOTTOM = 58, 428, 12, 180
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Point:
    x: int
    value: float
    passed: bool


@dataclass(frozen=True)
class Mark:
    """A point in the chart's own units; `title` says it in words."""

    x: float
    y: float
    passed: bool
    title: str


@dataclass(frozen=True)
class Line:
    name: str
    marks: tuple[Mark, ...]

    @property
    def path(self) -> str:
        """The points attribute of an SVG polyline."""
        return " ".join(f"{m.x:.1f},{m.y:.1f}" for m in self.marks)


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class LineChart:
    """`bar`: height of the line that values must not cross, `bar_label` its value."""

    title: str
    note: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    bar: float
    bar_label: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


def line_chart(title: str, note: str, series: dict[str, list[Point]], bar: float, log: bool) -> LineChart:
    """One line per series over x (layer numbers). Values that are not finite lie on the lower edge."""
    points = [p for values in series.values() for p in values]
    low_x, high_x = min(p.x for p in points), max(p.x for p in points)
    finite = [p.value for p in points if math.isfinite(p.value)]
    low, high, ticks = _decades(finite, bar) if log else _below_one(finite, bar)

    def across(x: int) -> float:
        return LEFT + 8 + (RIGHT - LEFT - 16) * ((x - low_x) / (high_x - low_x) if high_x > low_x else 0.5)

    def up(value: float) -> float:
        if not math.isfinite(value):
            return BOTTOM
        if log:
            value = math.log10(value) if value > 0 else low
        return BOTTOM - (BOTTOM - TOP) * min(1.0, max(0.0, (value - low) / (high - low)))

    def mark(name: str, p: Point) -> Mark:
        return Mark(across(p.x), up(p.value), p.passed, f"layer {p.x}, {name}: {shown(p.value)}")

    return LineChart(
        title,
        note,
        tuple(Line(name, tuple(mark(name, p) for p in values)) for name, values in series.items()),
        tuple(Tick(across(x), str(x)) for x in _whole_steps(low_x, high_x)),
        tuple(Tick(up(10**t if log else t), label) for t, label in ticks),
        up(bar),
        shown(bar),
    )


def shown(value: float) -> str:
    """A score as a person reads it: six places near one, powers of ten far below it."""
    if math.isnan(value):
        return "not a number"
    if not 0 < abs(value) < 1e-3:
        return f"{value:.6f}".rstrip("0").rstrip(".")
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def _below_one(values: list[float], bar: float) -> tuple[float, float, list[tuple[float, str]]]:
    """A linear scale that ends at 1 and reaches a little below the bar and the lowest value."""
    low = min([bar, *values])
    low -= (1 - low) * 0.12 or 0.01
    step = _nice((1 - low) / 4)
    places = max(0, -math.floor(math.log10(step) + 1e-9)) + (round(step / 10 ** math.floor(math.log10(step)), 3) == 2.5)
    count = math.floor((1 - low) / step + 1e-9)
    return low, 1.0, [(1 - i * step, f"{1 - i * step:.{places}f}") for i in range(count + 1)]


def _decades(values: list[float], bar: float) -> tuple[float, float, list[tuple[float, str]]]:
    """A logarithmic scale in whole decades, from the smallest value that is not zero to above the bar."""
    logs = [math.log10(v) for v in [bar, *values] if v > 0]
    low, high = math.floor(min(logs) - 0.2), math.ceil(max(logs) + 0.2)
    step = max(1, math.ceil((high - low) / 6))
    return low, high, [(float(e), f"10{str(e).translate(SUPERSCRIPT)}") for e in range(low, high + 1, step)]


def _nice(rough: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


def _whole_steps(low: int, high: int) -> range:
    step = max(1, math.ceil((high - low) / 8))
    return range(low, high + 1, step)
