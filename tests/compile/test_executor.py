"""Running a plan: order, staleness, failure, interruption, locks. The steps are small Python programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from compile import digest, executor, job
from compile.executor import StepFailed
from compile.steps import Plan, Step
from compile.toolchain import Runner
from contract.errors import UserError
from tests.compile.builds import RUNNERS, small_plan, step, write

ROOT = Path(__file__).parent.parent.parent


class Trace:
    """Events as words."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def begin(self, plan: Plan, jobs: int) -> None:
        self.words.append("begin")

    def running(self, step: Step, command: tuple[str, ...]) -> None:
        self.words.append(f"+{step.name}")

    def finished(self, step: Step, seconds: float) -> None:
        self.words.append(f"-{step.name}")

    def skipped(self, step: Step) -> None:
        self.words.append(f"={step.name}")

    def end(self, failed: bool) -> None:
        self.words.append("failed" if failed else "done")


def run(plan: Plan, jobs: int = 1, runners: dict[str, Runner] | None = None) -> list[str]:
    trace = Trace()
    executor.run(plan, runners or RUNNERS, jobs, trace)
    return trace.words


def chain(folder: Path, text: str = "a") -> Plan:
    """a -> b -> c; each copies and adds a letter."""
    follow = "open('../{0}/out.txt').read() + '{1}'"
    return small_plan(
        folder,
        step("a", write(repr(text))),
        step("b", write(follow.format("a", "b")), "a/out.txt"),
        step("c", write(follow.format("b", "c")), "b/"),
    )


def test_a_plan_runs_once(tmp_path: Path) -> None:
    plan = chain(tmp_path / "build")
    assert run(plan) == ["begin", "+a", "-a", "+b", "-b", "+c", "-c", "done"]
    assert (tmp_path / "build" / "work" / "c" / "out.txt").read_text() == "abc"
    assert run(plan) == ["begin", "=a", "=b", "=c", "done"]
    assert not list((tmp_path / "build" / "work").glob("*.part"))


def test_a_changed_command_runs_its_step_and_what_depends_on_it(tmp_path: Path) -> None:
    plan = chain(tmp_path)
    run(plan)
    assert run(chain(tmp_path, "x")) == ["begin", "+a", "-a", "+b", "-b", "+c", "-c", "done"]
    assert (tmp_path / "work" / "c" / "out.txt").read_text() == "xbc"


def test_equal_outputs_stop_the_chain(tmp_path: Path) -> None:
    """Another command with the same result leaves what depends on it as it is."""
    plan = chain(tmp_path)
    run(plan)
    same = replace(plan, steps=(step("a", write("'' + 'a'")), *plan.steps[1:]))
    assert run(same) == ["begin", "+a", "-a", "=b", "=c", "done"]


def test_a_changed_input_file_counts_and_its_date_does_not(tmp_path: Path) -> None:
    source = tmp_path / "model.bin"
    source.write_text("one")
    plan = small_plan(tmp_path / "build", step("a", write(f"open({str(source)!r}).read()"), str(source)))
    run(plan)
    os.utime(source)
    assert run(plan) == ["begin", "=a", "done"]
    source.write_text("two")
    assert run(plan) == ["begin", "+a", "-a", "done"]


def test_a_moved_input_is_the_same_input(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"

    def reads(folder: Path) -> Plan:
        code = write("open(__import__('sys').argv[1] + '/config.json').read()")
        return small_plan(tmp_path / "build", step("a", code, str(folder), words=(str(folder),)))

    here.mkdir()
    (here / "config.json").write_text("one")
    run(reads(here))
    here.rename(there)
    assert run(reads(there)) == ["begin", "=a", "done"]
    (there / "config.json").write_text("two")
    assert run(reads(there)) == ["begin", "+a", "-a", "done"]


def test_another_tool_version_runs_its_steps(tmp_path: Path) -> None:
    compiled = replace(step("b", write("'b'"), "a/out.txt"), where="compiler")
    plan = small_plan(tmp_path, step("a", write("'a'")), compiled)
    run(plan)
    other = {**RUNNERS, "compiler": Runner(identity="two")}
    assert run(plan, runners=other) == ["begin", "=a", "+b", "-b", "done"]


@pytest.mark.parametrize("damage", ["truncate", "change", "delete", "record"])
def test_a_damaged_output_is_made_again(tmp_path: Path, damage: str) -> None:
    plan = chain(tmp_path)
    run(plan)
    folder = tmp_path / "work" / "b"
    match damage:
        case "truncate":
            os.truncate(folder / "out.txt", 1)
        case "change":
            (folder / "out.txt").write_text("xy")
        case "delete":
            (folder / "out.txt").unlink()
        case "record":
            os.truncate(folder / job.RECORD, 20)
    assert run(plan) == ["begin", "=a", "+b", "-b", "=c", "done"]
    assert (folder / "out.txt").read_text() == "ab"


def test_only_declared_files_are_kept(tmp_path: Path) -> None:
    code = "import os; os.makedirs('d/e'); [open(p, 'w').write(p) for p in ('out.txt', 'junk', 'd/kept', 'd/e/junk')]"
    run(small_plan(tmp_path, step("a", code, outputs=("out.txt", "d/*"))))
    folder = tmp_path / "work" / "a"
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) == ["d", "d/kept", "out.txt", job.RECORD]
    record = job.read_record(folder)
    assert record
    assert sorted(record.outputs) == ["d/kept", "out.txt"]
    assert record.memory > 2**20
    assert record.seconds > 0


def test_a_failure_names_the_command_and_shows_the_log(tmp_path: Path) -> None:
    code = "import sys; print('\\n'.join(map(str, range(30)))); print('10%\\r20%\\rwhy'); sys.exit(3)"
    slow = step("slow", "import time; open('half', 'w').write('x'); time.sleep(60)")
    plan = small_plan(tmp_path, slow, step("bad", code), step("after", write("''"), "bad/"))
    start = time.monotonic()
    with pytest.raises(StepFailed) as error:
        run(plan, jobs=2)
    assert time.monotonic() - start < 20
    failure = error.value
    assert (failure.step, failure.reason) == ("bad", "exit code 3")
    assert failure.command.startswith(sys.executable)
    assert failure.tail == (*map(str, range(16, 30)), "why")
    assert failure.log.read_text().startswith("$ ")
    assert str(failure.log) in str(failure)
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["digests.json"]


def test_a_step_that_makes_nothing_has_failed(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=r"it made no out\.txt"):
        run(small_plan(tmp_path, step("a", "pass")))


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    missing = Step("a", (("no-such-tool",),), (), ("x",), "exporter")
    with pytest.raises(StepFailed, match="no-such-tool does not start: No such file"):
        run(small_plan(tmp_path, missing))


def test_a_killed_command_says_so(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="killed by SIGKILL, perhaps out of memory"):
        run(small_plan(tmp_path, step("a", "import os; os.kill(os.getpid(), 9)")))


def test_commands_of_a_step_run_in_turn_and_stop_at_the_first_failure(tmp_path: Path) -> None:
    python = sys.executable
    first, second = ((python, "-c", f"open('{n}', 'w').write('')") for n in ("one", "two"))
    plan = small_plan(tmp_path, Step("a", (first, (python, "-c", "1/0"), second), (), ("two",), "exporter"))
    with pytest.raises(StepFailed) as error:
        run(plan)
    assert error.value.tail[-1] == "ZeroDivisionError: division by zero"


def test_jobs_and_memory_bound_what_runs_at_once(tmp_path: Path) -> None:
    nap = "import time; time.sleep(0.3); open('out.txt', 'w').write('')"
    names = ("a", "b", "c")
    assert run(small_plan(tmp_path / "1", *(step(n, nap) for n in names)), jobs=2)[1:3] in (["+a", "+b"], ["+b", "+a"])
    words = run(small_plan(tmp_path / "2", *(step(n, nap, memory=2**60) for n in names)), jobs=3)
    assert words == ["begin", "+a", "-a", "+b", "-b", "+c", "-c", "done"]


def test_leftovers_of_a_killed_build_go(tmp_path: Path) -> None:
    (tmp_path / "work" / "gone.part").mkdir(parents=True)
    (tmp_path / "work" / "gone.part" / "half").write_text("x")
    run(chain(tmp_path))
    assert not (tmp_path / "work" / "gone.part").exists()


def test_too_little_disk_is_told_before_any_work(tmp_path: Path) -> None:
    plan = replace(chain(tmp_path), disk=2**60)
    with pytest.raises(UserError, match=r"the build may need .* GB more and .* GB are free"):
        run(plan)
    assert not (tmp_path / "runs").exists()


def test_a_missing_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="/no/such/model: is not there"):
        run(small_plan(tmp_path, step("a", write("''"), "/no/such/model")))


def test_steps_that_wait_for_each_other_are_a_mistake_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        run(small_plan(tmp_path, step("a", write("''"), "b/"), step("b", write("''"), "a/")))


# A build in a process of its own, whose step starts a child and sleeps. Prints the numbers of both.
SLEEPER = """
import sys
from pathlib import Path
from compile import executor
from compile.progress import Lines
from rich.console import Console
from tests.compile.builds import RUNNERS, small_plan, step
code = '''
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
open("../pids", "w").write(f"{os.getpid()} {child.pid}")
os.rename("../pids", "../started")
time.sleep(600)
'''
plan = small_plan(Path(sys.argv[1]), step("first", "open('out.txt', 'w')"), step("sleeper", code, "first/"))
executor.run(plan, RUNNERS, 1, Lines(Console()))
"""


def start_sleeper(folder: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL)
    started = folder / "work" / "started"
    deadline = time.monotonic() + 20
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return process, [int(word) for word in started.read_text().split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_build_leaves_no_process_and_nothing_half_written(tmp_path: Path, number: int) -> None:
    process, children = start_sleeper(tmp_path)
    assert all(map(alive, children))
    process.send_signal(number)
    assert process.wait(20) != 0
    assert not any(map(alive, children))
    work = tmp_path / "work"
    assert not list(work.glob("*.part"))
    assert job.read_record(work / "first")
    assert json.loads((work / "digests.json").read_text())


def test_two_builds_in_one_folder_are_refused(tmp_path: Path) -> None:
    process, _ = start_sleeper(tmp_path)
    try:
        with pytest.raises(UserError, match="another build is at work here"):
            run(chain(tmp_path))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert run(chain(tmp_path))[-1] == "done"


def test_the_time_of_a_step_is_also_that_of_digesting_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forecasts are made of these times, and lay 20 % below the clock without it."""
    stream = digest._stream

    def slow(file: object) -> str:
        time.sleep(2)
        return stream(file)

    monkeypatch.setattr(digest, "_stream", slow)
    records = executor.run(small_plan(tmp_path, step("a", write("'a'"))), RUNNERS, 1, Trace())
    assert records["a"].seconds >= 2
