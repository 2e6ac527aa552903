"""Time and peaks of a plan by what its steps are said to take. `a` and `b` run side by side, then `whole`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cli.peaks import Disk, Memory
from compile import forks, quantization, schedule
from compile.job import read_record
from compile.schedule import Cost
from compile.steps import COMPILER, TRANSFORM, Plan, Step
from compile.usual import usual
from tests.compile import builds
from tests.compile.builds import options, recipe_and_spec, recipe_plan, small_plan
from tests.compile.test_executor import run

MB, GB = 10**6, 10**9
SERVER = forks.MEMORY[TRANSFORM]


def step(name: str, *inputs: str, disk: int = 0, made: int = 0, memory: int = GB, passes: bool = True) -> Step:
    passing = ("*",) if passes else ()
    return Step(name, (("cp",),), inputs, ("*",), COMPILER, memory, disk or made, made, passing=passing)


def plan(*steps: Step, room: int = 0) -> Plan:
    return replace(small_plan(Path("build"), *steps), room=room)


def course(made: Plan, jobs: int = 2, memory: int = 64 * GB, **costs: tuple[float, Sequence[int]]) -> schedule.Course:
    found = {one.name: Cost(*costs.get(one.name, (1.0, (0,))), [one.disk]) for one in made.steps}
    return schedule.course(made, found, jobs, memory)


def whole(takes: bool = True) -> Step:
    return replace(step("whole", "a/", "b/", disk=1, passes=False), takes=takes)


def test_steps_wait_for_what_they_read_and_for_a_core() -> None:
    made = plan(step("a"), step("b"), whole())
    assert course(made, a=(3, (0,)), b=(2, (0,))).seconds == 3 + 1
    assert course(made, 1, a=(3, (0,)), b=(2, (0,))).seconds == 3 + 2 + 1


def test_steps_wait_for_memory() -> None:
    made = plan(step("a", memory=5 * GB), step("b", memory=4 * GB))
    assert course(made, memory=9 * GB).seconds == 1
    assert course(made, memory=8 * GB).seconds == 2
    assert course(made, memory=9 * GB).admitted == schedule.OWN + 9 * GB
    assert course(made, memory=8 * GB).admitted == schedule.OWN + 5 * GB


def test_steps_wait_for_room_on_the_disk() -> None:
    """`b` and `c` do not lie there at once: what `a` made goes when `b` has read it, and `c` waits until then."""
    made = plan(step("a", made=4), step("b", "a/", disk=1, passes=False), step("c", made=4), room=6)
    wide = course(replace(made, room=0), c=(0.5, (0,)))
    assert (wide.seconds, wide.disk) == (2, 8)
    tight = course(made, c=(0.5, (0,)))
    assert (tight.seconds, tight.disk) == (2.5, 5)


def test_weights_are_not_written_long_before_their_nets_have_memory() -> None:
    """Beside `long` there are 4 GB: for writing weights, which takes 1 GB, and for nets of 2 GB, but not of 8."""

    def told(size: int) -> schedule.Course:
        steps = [step("long", memory=16 * GB)]
        for i in range(4):
            steps += [step(f"bind.{i}", made=1), step(f"net.{i}", f"bind.{i}/", memory=size * GB, passes=False)]
        return course(plan(*steps), memory=20 * GB, long=(10, (0,)))

    assert (told(2).seconds, told(2).disk) == (10, 1)
    assert (told(8).seconds, told(8).disk) == (14, 2)


@pytest.mark.parametrize(
    ("second", "peak"),
    [((1, 1, 1, 7), 10), ((7, 1, 1, 1), 8), ((4, 4), 9), ((7,), 12)],
)
def test_memory_is_that_of_all_that_runs_at_the_same_time(second: tuple[int, ...], peak: int) -> None:
    made = plan(step("a"), step("b"))
    first = (1, 2, 5, 3)
    assert course(made, a=(4, first), b=(4, second)).memory == schedule.OWN + peak
    assert course(made, 1, a=(4, first), b=(4, second)).memory == schedule.OWN + max(*first, *second)


def test_a_shorter_step_is_over_before_the_others_peak() -> None:
    made = plan(step("a"), step("b"))
    assert course(made, a=(10, (1, 9)), b=(4, (5,))).memory == schedule.OWN + 9
    assert course(made, a=(10, (1, 9)), b=(6, (5,))).memory == schedule.OWN + 14


def test_a_server_stays_until_the_last_step_that_wants_it() -> None:
    tool = replace(step("tool"), commands=((TRANSFORM,),))
    made = plan(tool, step("after", "tool/", passes=False))
    assert course(made, tool=(2, (7,)), after=(2, (1,))).memory == schedule.OWN + SERVER + 7
    assert course(made).admitted == schedule.OWN + SERVER + GB
    assert course(made, tool=(2, (7,)), after=(2, (SERVER + 9,))).memory == schedule.OWN + SERVER + 9


def test_disk_holds_what_steps_write_and_what_will_be_read() -> None:
    made = plan(step("a", disk=9, made=2), step("b", disk=3, made=3), whole())
    assert course(made).disk == 9 + 3
    assert course(made, 1).disk == max(9, 2 + 3, 2 + 3 + 1)
    # What `a` made goes before the last step begins.
    made = plan(step("a", made=5), step("b", "a/", made=1), replace(whole(), inputs=("b/",)))
    assert course(made).disk == 5 + 1


def test_where_all_is_kept_the_whole_is_a_copy() -> None:
    made = plan(step("a", made=5), step("b", made=4), whole())
    assert course(made).disk == 5 + 4 + 1
    assert course(made.keeping()).disk == 2 * (5 + 4)


def test_disk_is_that_of_what_was_written_by_then() -> None:
    made = plan(step("a", made=5), step("b", made=4), whole(takes=False))
    costs = {"a": Cost(1.0, [0], [5]), "b": Cost(3.0, [0], [0, 0, 6]), "whole": Cost(1.0, [0], [1, 1])}
    assert schedule.course(made, costs, 2, 64 * GB).disk == 5 + 6
    costs["a"] = Cost(3.0, [0], [7, 1, 5])
    assert schedule.course(made, costs, 2, 64 * GB).disk == 5 + 6
    costs["b"] = Cost(3.0, [0], [0, 0, 3])
    assert schedule.course(made, costs, 2, 64 * GB).disk == 5 + 4 + 1


def filled(size: int, *stages: tuple[float, int]) -> str:
    """Code that takes each of `stages`, seconds and bytes of memory, and then writes `size` bytes, a megabyte each,
    and stays long enough to be seen with them."""
    taken = "; ".join(f"own = b'x' * {taken}; time.sleep({seconds})" for seconds, taken in stages)
    written = f"file = open('out.txt', 'wb'); [file.write(b'x' * {MB}) for _ in range({size // MB})]"
    return f"import time; {taken}; {written}; time.sleep(0.3)"


@pytest.mark.slow
def test_two_at_once_take_what_their_records_foretell(tmp_path: Path) -> None:
    """`late` is large when `early` has ended, and `next` has taken its place. None is at its peak by chance."""
    late = builds.step("late", filled(40 * MB, (5.0, 1), (4.0, 200 * MB)), passing=("*",), disk=40 * MB, made=40 * MB)
    early = builds.step("early", filled(30 * MB, (3.0, 150 * MB)), passing=("*",), disk=30 * MB, made=30 * MB)
    after = filled(20 * MB, (4.5, 80 * MB))
    following = builds.step("next", after, "early/", passing=("*",), disk=20 * MB, made=20 * MB)
    last = builds.step("whole", filled(10 * MB, (0.5, 1)), "late/", "next/", disk=10 * MB, made=10 * MB)
    made = small_plan(tmp_path / "build", late, early, following, last)
    # By a process of its own: what one starts counts with as much as that one has, and these tests may have torch.
    builder = multiprocessing.get_context("spawn").Process(target=run, args=(made, 2))
    with Disk(tmp_path) as disk, Memory() as memory:
        builder.start()
        builder.join()
    assert builder.exitcode == 0
    costs = {}
    for one in made.steps:
        record = read_record(made.folder / "work" / one.name)
        assert record
        costs[one.name] = Cost(record.seconds, record.profile or [record.memory], [*[0] * 15, one.disk])
    assert len(costs["late"].memory) > 1
    told = schedule.course(made, costs, 2, 64 * GB)
    assert told.memory == pytest.approx(memory.most, rel=0.15)
    assert memory.most < sum(max(costs[name].memory) for name in ("late", "early"))
    assert told.disk == pytest.approx(disk.most, rel=0.15)
    assert disk.most < sum(one.made for one in made.steps)


@pytest.mark.parametrize(("available", "jobs"), [(22, 2), (64, 8)])
@pytest.mark.parametrize(
    "name", ["qwen2.5-0.5b", "qwen2-72b", "llama3.2-3b", "minicpm3-4b", "internvl3-2b", "qwen2-vl-7b"]
)
@pytest.mark.parametrize("mode", ["int4", "bf16"])
def test_no_build_takes_more_disk_than_its_plan_says(mode: str, name: str, available: int, jobs: int) -> None:
    recipe, spec = recipe_and_spec(name)
    made, chosen = recipe_plan(name, mode=mode), options(recipe, mode=mode)
    words = {net.name: quantization.word(recipe, spec, chosen, net.kind, 0) for net in made.nets}
    costs = {one.name: usual(one, made, spec, words, available * GB) for one in made.steps}
    told = schedule.course(made, costs, jobs, available * GB)
    assert told.disk <= made.disk
    # What is likely of 72B's parity step on 22 GB is 2 % more than there is, by a rate that was measured elsewhere.
    assert told.memory <= 1.05 * told.admitted
