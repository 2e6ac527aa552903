"""Shows a running build: a live display on a terminal, one line a finished step elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import cache

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from compile.executor import Events
from compile.steps import Plan, Step

Expected = Callable[[], Mapping[str, float]]


def display(expected: Expected, console: Console | None = None) -> Events:
    """On standard error unless told otherwise, where standard output may be a result. `expected`: seconds of each step,
    by name, as foretold; asked for on a terminal only."""
    console = console or Console(stderr=True)
    return LiveDisplay(console, expected) if console.is_terminal else Lines(console)


class Lines:
    """For logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.total = self.done = 0
        self.fresh = 0
        self.start = time.monotonic()

    def begin(self, plan: Plan, jobs: int) -> None:
        self.total = len(plan.steps)
        self._print(f"{self.total} steps, {jobs} at once, in {plan.folder}")

    def running(self, step: Step, command: tuple[str, ...]) -> None:
        pass

    def finished(self, step: Step, seconds: float) -> None:
        self.done += 1
        self._print(f"[{self.done}/{self.total}] {step.name} {seconds:.1f} s")

    def skipped(self, step: Step) -> None:
        self.done += 1
        self.fresh += 1

    def end(self, failed: bool) -> None:
        word = "stopped" if failed else "done"
        kept = f", {self.fresh} of them up to date" if self.fresh else ""
        self._print(f"{word}: {self.done} of {self.total} steps{kept}, {time.monotonic() - self.start:.1f} s")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay:
    """Nets done, time left, and the commands now running, drawn anew four times a second."""

    def __init__(self, console: Console, expected: Expected) -> None:
        self.console, self._foretold = console, cache(expected)
        self.lines = Lines(console)
        self.plan: Plan | None = None
        self.jobs = 1
        self.now: dict[str, tuple[float, tuple[str, ...]]] = {}  # start and command of the steps that run
        self.left: dict[str, Step] = {}
        self.seen: dict[str, list[float]] = {}
        self.live = Live(get_renderable=self._draw, console=console, refresh_per_second=4, transient=True)

    def begin(self, plan: Plan, jobs: int) -> None:
        self.plan, self.jobs = plan, jobs
        self.left = {step.name: step for step in plan.steps}
        self.lines.begin(plan, jobs)
        self.live.start()

    def running(self, step: Step, command: tuple[str, ...]) -> None:
        start = self.now[step.name][0] if step.name in self.now else time.monotonic()
        self.now[step.name] = (start, command)

    def finished(self, step: Step, seconds: float) -> None:
        self.lines.done += 1
        self.now.pop(step.name, None)
        self.left.pop(step.name, None)
        self.seen.setdefault(kind(step.name), []).append(seconds)

    def skipped(self, step: Step) -> None:
        self.lines.skipped(step)
        self.left.pop(step.name, None)

    def end(self, failed: bool) -> None:
        self.live.stop()
        self.lines.end(failed)

    def seconds_left(self) -> float:
        """Work left over the jobs that share it, but no less than the longest step that runs."""
        clock, now = time.monotonic(), dict(self.now)  # a copy: the display draws in a thread of its own
        rest = {
            name: max(0.0, self._expected(name) - (clock - now[name][0] if name in now else 0.0))
            for name in list(self.left)
        }
        longest = max((rest[name] for name in now if name in rest), default=0.0)
        return max(sum(rest.values()) / self.jobs, longest)

    def _expected(self, name: str) -> float:
        """As the steps of its kind took that were seen; until there is one, as foretold."""
        seen = self.seen.get(kind(name))
        return sum(seen) / len(seen) if seen else self._foretold().get(name, 0.0)

    def _draw(self) -> RenderableType:
        if not self.plan:
            return ""
        nets = [net.name for net in self.plan.nets]
        done = sum(name not in self.left for name in nets)
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self.lines.total, completed=self.lines.done, width=30)
        head.add_row(bar, f"{done}/{len(nets)} nets", f"about {_clock(self.seconds_left())} left")
        rows: list[RenderableType] = [head]
        now = time.monotonic()
        for name, (since, command) in list(self.now.items())[: max(1, self.console.height - 3)]:
            line = Text(f"{_clock(now - since):>6}  {name}  ", no_wrap=True, overflow="ellipsis")
            rows.append(line.append(" ".join(command), style="dim"))
        return Group(*rows)


def kind(step: str) -> str:
    """Steps of a kind take about the same time: those whose names differ in numbers only."""
    return re.sub(r"\d+", "#", step)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}" if whole >= 60 else f"{whole} s"
