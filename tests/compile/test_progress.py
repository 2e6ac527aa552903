"""What a person sees of a build."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from compile import executor, progress
from compile.executor import StepFailed
from tests.compile.builds import RUNNERS, recipe_plan, small_plan, step, write


def plain() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=200), out


def test_a_line_a_finished_step_where_there_is_no_terminal(tmp_path: Path) -> None:
    console, out = plain()
    plan = small_plan(tmp_path, step("a", write("'a'")), step("b", write("'b'"), "a/"))
    executor.run(plan, RUNNERS, 1, progress.display(dict, console))
    lines = [re.sub(r"[\d.]+ s$", "_ s", line) for line in out.getvalue().splitlines()]
    assert lines == [f"2 steps, 1 at once, in {tmp_path}", "[1/2] a _ s", "[2/2] b _ s", "done: 2 of 2 steps, _ s"]
    executor.run(plan, RUNNERS, 1, progress.display(dict, console))
    assert "done: 2 of 2 steps, 2 of them up to date, " in out.getvalue()


def test_a_failed_build_says_how_far_it_came(tmp_path: Path) -> None:
    console, out = plain()
    with pytest.raises(StepFailed):
        executor.run(small_plan(tmp_path, step("a", "1/0")), RUNNERS, 1, progress.display(dict, console))
    assert out.getvalue().splitlines()[-1].startswith("stopped: 0 of 1 steps")


def test_the_live_display_shows_nets_time_and_commands() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160, height=12)
    display = progress.LiveDisplay(console, dict)
    plan = recipe_plan("stories15m")
    steps = {step.name: step for step in plan.steps}
    display.begin(plan, 2)
    for name in ("trace", "bind.layer_0"):
        display.running(steps[name], steps[name].commands[0])
        display.finished(steps[name], 1.0)
    for name in ("embedding", "lm_head"):
        display.finished(steps[name], 6.0)
    display.skipped(steps["block_3"])
    for command in steps["block_0"].commands[:2]:
        display.running(steps["block_0"], command)
    with console.capture() as capture:
        console.print(display._draw())
    display.end(failed=False)
    text = re.sub(r"\x1b\[[0-9;]*m", "", capture.get())
    assert "3/15 nets" in text
    assert re.search(r"about \d+ s left", text)
    assert re.search(r"0 s  block_0  model_deploy.py --mlir block_0.mlir", text)


def test_the_estimate_is_the_forecasts_and_learns_from_steps_of_a_kind() -> None:
    plan = recipe_plan("stories15m")
    steps = {step.name: step for step in plan.steps}
    foretold = {name: 2.0 for name in steps} | {"trace": 7.0}
    display = progress.LiveDisplay(Console(file=io.StringIO(), force_terminal=True), lambda: foretold)
    display.begin(plan, 2)
    before = display.seconds_left()
    assert before == pytest.approx(len(steps) + 2.5)  # halves, on two jobs
    display.finished(steps["block_0"], 100.0)
    display.end(failed=False)
    # Five more blocks, of 100 s instead of the 2 s foretold, on two jobs; block_0 itself is done.
    assert display.seconds_left() == pytest.approx(before + 5 * 98 / 2 - 1)
