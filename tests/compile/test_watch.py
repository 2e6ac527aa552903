"""The memory of a step's processes over time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from cli.peaks import Memory
from compile.job import read_record
from compile.watch import SLICES, Level, Watch, profile
from tests.compile.builds import small_plan, step
from tests.compile.test_executor import run

MB = 10**6
CHILD = "import time; own = b'x' * {0}; time.sleep({1})"


def family(own: int, child: int, seconds: float, group: int | None = None) -> list[str]:
    """A process that takes `own` bytes, and its child `child` for as long, in a `group` of its own where that is 0."""
    code = f"import subprocess, sys; own = b'x' * {own}; "
    code += f"subprocess.run([sys.executable, '-c', {CHILD.format(child, seconds)!r}], process_group={group})"
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("group", [None, 0])
def test_a_group_counts_with_its_children(group: int | None) -> None:
    watch, found = Watch(), list[Level]()
    watch.start()
    process = subprocess.Popen(family(60 * MB, 120 * MB, 1.5, group), start_new_session=True)
    with watch.over(process.pid, found):
        process.wait()
    most = max(size for _, size in found)
    assert 180 * MB < most < 240 * MB  # with two interpreters of 10 MB
    count = len(found)
    time.sleep(0.5)
    watch.stop()
    assert len(found) == count


def test_what_ends_during_a_look_gets_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def look() -> Counter[int]:
        begun.set()
        ended.wait(5)
        return Counter({7: MB})

    monkeypatch.setattr("compile.watch._resident", look)
    watch, found = Watch(), list[Level]()
    watch.start()
    with watch.over(7, found):
        assert begun.wait(5)
    watch.stop()
    ended.set()
    watch.join()
    assert found == []


def test_a_profile_has_the_largest_of_each_part() -> None:
    looks = [(10 + i / 4, i) for i in range(40)]
    parts = profile(looks, 10.0, 20.0, 0)
    assert len(parts) == SLICES
    assert parts[0] == 2  # of the first 0.625 s
    assert parts[-1] == 39
    assert parts == sorted(parts)


def test_the_peak_of_a_profile_is_at_least_that_of_the_largest_process() -> None:
    looks = [(i / 4, 9 if i == 20 else 1) for i in range(40)]
    parts = profile(looks, 0.0, 10.0, 50)
    assert sorted(set(parts)) == [1, 50]
    assert parts[8] == 50


@pytest.mark.parametrize(("count", "parts"), [(0, 0), (1, 0), (2, 1), (7, 3), (2 * SLICES - 1, SLICES - 1)])
def test_what_was_seldom_looked_at_has_fewer_parts(count: int, parts: int) -> None:
    found = profile([(i / count, i) for i in range(count)], 0.0, 1.0, 9 * count)
    assert len(found) == parts
    assert found == sorted(found)
    assert not found or found[-1] == 9 * count


def test_memory_of_what_begins_meanwhile_is_seen() -> None:
    """Of children and theirs; of nothing that ran before."""
    before = subprocess.Popen(family(200 * MB, 1, 3.0))
    time.sleep(0.5)
    with Memory() as memory:
        subprocess.run(family(60 * MB, 120 * MB, 1.0), check=True)
    before.kill()
    before.wait()
    assert 180 * MB < memory.most < 240 * MB


@pytest.mark.slow
def test_a_record_has_the_profile_of_a_long_step(tmp_path: Path) -> None:
    code = "import time; time.sleep(3.5); own = b'x' * 150_000_000; time.sleep(3.5); open('out.txt', 'w').write('a')"
    plan = small_plan(tmp_path / "build", step("a", code))
    run(plan)
    record = read_record(plan.folder / "work" / "a")
    assert record
    parts = record.profile
    assert len(parts) == SLICES
    assert max(parts[:6]) < 50 * MB
    assert min(parts[10:14]) > 150 * MB
