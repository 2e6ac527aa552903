"""Finished steps shared between builds: taken whole or not at all, counted, and pruned."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from compile import executor
from compile.steps import Plan
from compile.store import Store
from tests.compile.builds import RUNNERS, small_plan, step, write
from tests.compile.test_executor import run


def plan(tmp_path: Path, name: str, *, last: str = "'c'") -> Plan:
    steps = step("a", write("'a'")), step("c", write(last), "a/")
    return replace(small_plan(tmp_path / name, *steps), store=tmp_path / ".steps")


def test_a_build_takes_what_another_made(tmp_path: Path) -> None:
    run(plan(tmp_path, "one"))
    assert run(plan(tmp_path, "two")) == ["begin", "=a", "=c", "done"]
    assert run(plan(tmp_path, "three", last="'d'")) == ["begin", "=a", "+c", "-c", "done"]
    assert (tmp_path / "three/work/c/out.txt").read_text() == "d"
    assert (tmp_path / "one/work/c/out.txt").read_text() == "c"


def test_what_was_changed_is_not_taken(tmp_path: Path) -> None:
    run(plan(tmp_path, "one"))
    for path in tmp_path.glob(".steps/*/out.txt"):
        path.write_text("z")  # one file with two names: the first build has it too
    assert run(plan(tmp_path, "two")) == ["begin", "+a", "-a", "+c", "-c", "done"]
    assert (tmp_path / "two/work/a/out.txt").read_text() == "a"
    assert run(plan(tmp_path, "one")) == ["begin", "=a", "=c", "done"]  # mended from the second's
    assert (tmp_path / "one/work/a/out.txt").read_text() == "a"


def test_a_lost_step_comes_back_without_work(tmp_path: Path) -> None:
    made = plan(tmp_path, "one")
    run(made)
    (made.folder / "work/a/out.txt").unlink()
    assert run(made) == ["begin", "=a", "=c", "done"]


def test_a_store_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / ".steps").write_text("a file in its place")
    assert run(plan(tmp_path, "one"))[-1] == "done"
    assert Store(tmp_path / ".steps").entries() == []


def test_entries_are_counted_and_the_oldest_idle_ones_pruned(tmp_path: Path) -> None:
    executor.run(plan(tmp_path, "one"), RUNNERS, 1, Silent())
    store = Store(tmp_path / ".steps")
    assert [(entry.size, entry.shared) for entry in store.entries()] == [(1, True), (1, True)]
    assert store.prune(0) == 0  # the build still has them
    for path in (tmp_path / "one/work").glob("*/out.txt"):
        path.unlink()
    old, young = store.entries()
    os.utime(young.path, (1, 1))
    assert store.prune(1) == 1
    assert [entry.path for entry in store.entries()] == [old.path]


class Silent:
    """Events that nobody wants."""

    def begin(self, *_: object) -> None: ...
    def running(self, *_: object) -> None: ...
    def finished(self, *_: object) -> None: ...
    def skipped(self, *_: object) -> None: ...
    def end(self, *_: object) -> None: ...
