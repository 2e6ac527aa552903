"""Commands run in forks of a server as they would run as processes, and end with the build. The tools are small."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from compile import executor, forks, job, process, toolchain
from compile.executor import StepFailed
from compile.plan import REBIND, make_plan
from compile.progress import Lines
from compile.steps import COMPILER, Step
from compile.toolchain import Runner
from exporters import spec as specs
from recipes.recipe import load
from tests.compile.builds import options, small_plan
from tests.compile.test_executor import ROOT, Trace, alive

TOOL = "model_deploy.py"
STAMP = re.compile(rb"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}")

# Says all that it sees of the world, then does what its first argument says.
CODE = """
import os, subprocess, sys, time
from heavy import PID
def lazy():
    from onnx_reader import PID
    return PID
if __name__ == "__main__":
    print(__file__, sys.argv, os.getcwd(), sys.path[0], sys.modules["__main__"].lazy is lazy, sys.stdin.read())
    print("error", file=sys.stderr)
    print(os.getpid() == os.getpgid(0), os.getpid() == PID, PID == lazy(), os.environ.get("MARK"), file=sys.stderr)
    exec(sys.argv[1])
"""
IMPORTED = "import os\nPID = os.getpid()\n"


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """A tool that imports `heavy`, and `onnx_reader` on demand."""
    (tmp_path / "bin").mkdir()
    for name in ("heavy.py", "onnx_reader.py"):
        (tmp_path / "bin" / name).write_text(IMPORTED)
    path = tmp_path / "bin" / TOOL
    path.write_text(f"#!{sys.executable}\n{CODE}")
    path.chmod(0o755)
    return path


@pytest.fixture
def runner(tool: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setenv("MARK", "set")
    return Runner((str(tool.parent), str(Path(sys.executable).parent)))


@pytest.fixture
def servers(runner: Runner) -> Iterator[forks.Servers]:
    servers = forks.Servers(runner.environment())
    yield servers
    servers.close()


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def gone(*pids: int) -> bool:
    """A process that was sent SIGKILL takes a moment to end."""
    return within(5, lambda: not any(map(alive, pids)))


def call(launcher: process.Launcher, folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and log."""
    with (folder / "log").open("wb") as log:
        how = (TOOL, *arguments), folder, log
        code, memory = (launcher.fork(*how) or launcher.start(*how)).wait()
    assert memory > 2**20
    return code, (folder / "log").read_text()


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "print('unflushed', end='')",
        "sys.exit(3)",
        "sys.exit('words')",
        "sys.exit(-1)",
        "1 / 0",
        "os.write(1, b'x'); os.kill(os.getpid(), 9)",
        "subprocess.run(['sh', '-c', 'echo from a child; pwd; exit 1'], check=True)",
        "import threading; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
        "import atexit; atexit.register(print, 'at last')",
    ],
)
def test_a_fork_does_what_the_process_does(runner: Runner, servers: forks.Servers, tmp_path: Path, code: str) -> None:
    plain = call(process.Launcher(runner), tmp_path, code, "--flag=", "")
    forked = call(process.Launcher(runner, servers), tmp_path, code, "--flag=", "")
    assert "True True True set" in plain[1] or "kill" in code
    assert forked == (plain[0], plain[1].replace("True True True set", "True False True set"))


def test_imports_are_done_once_and_ahead(servers: forks.Servers, runner: Runner, tmp_path: Path) -> None:
    show = "import heavy, onnx_reader; open('pids', 'a').write(f'{heavy.PID} {onnx_reader.PID} {os.getpid()}\\n')"
    for _ in range(2):
        assert call(process.Launcher(runner, servers), tmp_path, show)[0] == 0
    first, second = ([int(word) for word in line.split()] for line in (tmp_path / "pids").read_text().splitlines())
    assert first[:2] == second[:2] == [first[0]] * 2
    assert len({first[0], first[2], second[2]}) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\necho plain\n", "it is no Python script"),
        (f"#!{sys.executable}\ntry:\n    import missing\nexcept ImportError:\n    print('plain')\n", ""),
        (f"#!{sys.executable}\nimport sys\nif sys.argv[1:]:\n    print('plain')\nimport odd\n", "ValueError: odd"),
        (f"#!{sys.executable}\nimport busy\nprint('plain')\n", "RuntimeError: its imports started threads (1)"),
        (f"#!{sys.executable}\nimport deadly\nprint('plain')\n", "it ended at its start"),
    ],
)
def test_without_a_server_it_is_a_process(tool: Path, runner: Runner, tmp_path: Path, text: str, reason: str) -> None:
    odd = "import sys\nif len(sys.argv) > 2 and sys.argv[0].endswith('forkserver.py'):\n    "
    (tool.parent / "odd.py").write_text(odd + "raise ValueError('odd')\n")
    (tool.parent / "busy.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=[1]).start()"
    )
    (tool.parent / "deadly.py").write_text(odd + "import os; os.abort()\n")
    tool.write_text(text)
    servers = forks.Servers(runner.environment())
    code, log = call(process.Launcher(runner, servers), tmp_path, "x")
    servers.close()
    note = f"# {TOOL} runs without its fork server: {reason}\n" if reason else ""
    assert (code, log) == (0, f"{note}plain\n")


def test_a_tool_that_is_not_there_fails_as_ever(tmp_path: Path, runner: Runner, tool: Path) -> None:
    tool.unlink()
    with pytest.raises(StepFailed, match=rf"{TOOL} does not start: No such file"):
        build(tmp_path, runner, step("a", "pass"))


def step(name: str, code: str, *inputs: str) -> Step:
    return Step(name, ((TOOL, code),), inputs, ("out.txt",), COMPILER)


def build(folder: Path, runner: Runner, *steps: Step) -> list[str]:
    trace = Trace()
    executor.run(small_plan(folder / "build", *steps), {COMPILER: runner}, 2, trace)
    return trace.words


WRITE = "open('out.txt', 'w').write(str(PID))"


def test_a_build_has_one_server_and_ends_it(tmp_path: Path, runner: Runner) -> None:
    words = build(tmp_path, runner, step("a", WRITE), step("b", WRITE, "a/out.txt"))
    assert words == ["begin", "+a", "-a", "+b", "-b", "done"]
    first, second = ((tmp_path / "build" / "work" / name / "out.txt").read_text() for name in "ab")
    assert first == second
    assert not alive(int(first))


def test_a_server_ends_with_the_last_step_that_wants_it(tmp_path: Path, runner: Runner) -> None:
    """Other steps still run: `b` sees it go."""
    code = "import os, time; pid = int(open('../a/out.txt').read())\nfor _ in range(500):\n"
    code += " try: os.kill(pid, 0)\n except OSError: open('out.txt', 'w').write('gone'); break\n time.sleep(0.02)"
    waits = Step("b", ((sys.executable, "-c", code),), ("a/out.txt",), ("out.txt",), COMPILER)
    build(tmp_path, runner, step("a", WRITE), waits)


def test_a_server_that_is_busy_or_was_started_again_is_not_ended(servers: forks.Servers, tmp_path: Path) -> None:
    def start(code: str) -> tuple[forks.Child, int]:
        with (tmp_path / "log").open("wb") as log:
            child = servers.start((TOOL, f"open('pid', 'w').write(str(PID)); {code}"), tmp_path, log)
        assert child
        assert within(20, lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
        pid = int((tmp_path / "pid").read_text())
        (tmp_path / "pid").unlink()
        return child, pid

    child, first = start("time.sleep(600)")
    servers.retire([])
    assert alive(first)
    assert servers.held == forks.MEMORY[TOOL]
    child.signal(signal.SIGTERM)
    assert child.wait()[0] == -signal.SIGTERM
    servers.retire([(TOOL, "more")])
    assert alive(first)
    servers.retire([("other",)])
    assert gone(first)
    assert servers.held == 0
    child, second = start("pass")
    child.wait()
    servers.retire([])
    assert alive(second)


def test_a_build_with_nothing_to_do_starts_none(tmp_path: Path, runner: Runner, tool: Path) -> None:
    build(tmp_path, runner, step("a", WRITE))
    (tool.parent / "heavy.py").write_text("open(__file__ + '.imported', 'w')\n")
    assert build(tmp_path, runner, step("a", WRITE)) == ["begin", "=a", "done"]
    assert not (tool.parent / "heavy.py.imported").exists()


def test_a_layer_without_its_template_is_transformed_by_the_server(tmp_path: Path, tool: Path, runner: Runner) -> None:
    """compile.rebind leaves the command after -- to us."""
    (tool.parent / "model_transform.py").write_text(tool.read_text())
    (tool.parent / "model_transform.py").chmod(0o755)
    (tmp_path / "template.json").write_text('{"reason": "a was changed"}')
    words = ("bind", str(tmp_path), "x.onnx", "weights.npz", "block_1", "--", "model_transform.py")
    rebind = (sys.executable, "-I", str(REBIND), *words)
    layer = Step("block_1", ((*rebind, WRITE),), (), ("out.txt",), COMPILER)
    build(tmp_path, runner, layer)
    log = (tmp_path / "build" / "logs" / "block_1.log").read_text()
    assert "block_1: transformed by itself: a was changed\n" in log
    assert "True False True set" in log  # a fork
    with pytest.raises(StepFailed, match="exit code 3"):
        build(tmp_path, runner, replace(layer, commands=((*rebind, "sys.exit(3)"),)))


def test_the_end_of_a_server_ends_its_command(tmp_path: Path, runner: Runner) -> None:
    code = f"child = subprocess.Popen(['sleep', '600']); open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid)); "
    with pytest.raises(StepFailed, match="killed by SIGKILL"):
        build(tmp_path, runner, step("a", code + "os.kill(os.getppid(), 9); time.sleep(600)"))
    assert gone(int((tmp_path / "child").read_text()))


def test_a_command_ends_what_it_left_running(tmp_path: Path, servers: forks.Servers, runner: Runner) -> None:
    code = "open('child', 'w').write(str(subprocess.Popen(['sleep', '600']).pid))"
    assert call(process.Launcher(runner, servers), tmp_path, code)[0] == 0
    assert gone(int((tmp_path / "child").read_text()))


# A build in a process of its own, whose step starts a child and sleeps; or whose server never gets ready.
SLEEPER = """
from tests.compile.test_forkserver import Console, Lines, Path, Runner, executor, small_plan, step, sys
code = '''
child = subprocess.Popen(["sleep", "600"])
open("../pids", "w").write(f"{os.getpid()} {os.getppid()} {child.pid}")
os.rename("../pids", "../started")
time.sleep(600)
'''
plan = small_plan(Path(sys.argv[1]), step("sleeper", code))
executor.run(plan, {"compiler": Runner((sys.argv[2],))}, 1, Lines(Console()))
"""


def start_sleeper(folder: Path, tool: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    command = [sys.executable, "-c", SLEEPER, str(folder), str(tool.parent)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    started = folder / "work" / "started"
    within(20, started.exists)
    return process, [int(word) for word in started.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_build_leaves_no_process(tmp_path: Path, tool: Path, number: int) -> None:
    process, children = start_sleeper(tmp_path, tool)
    assert all(map(alive, children))
    process.send_signal(number)
    assert process.wait(20) != 0
    assert gone(*children)
    assert not list((tmp_path / "work").glob("*.part"))


def test_a_killed_build_leaves_no_process(tmp_path: Path, tool: Path) -> None:
    process, children = start_sleeper(tmp_path, tool)
    process.kill()
    process.wait()
    assert gone(*children)


def test_a_build_is_interrupted_while_its_server_starts(tmp_path: Path, tool: Path) -> None:
    started = tmp_path / "work" / "started"
    slow = f"import os, time\nopen({str(started)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    (tool.parent / "heavy.py").write_text(slow)
    process, server = start_sleeper(tmp_path, tool)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) != 0
    assert gone(*server)


@pytest.mark.toolchain
def test_the_real_tools_give_the_same_bytes(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, model = load("stories15m"), checkpoint("llama")
    plan = make_plan(
        recipe, specs.read(model), model, tmp_path, options(recipe, seq_length=64, group_size=64)
    ).keeping()
    runners, made = toolchain.runners(toolchain.find()), []
    for served in (forks.SERVED, {}):
        monkeypatch.setattr(forks, "SERVED", served)
        executor.run(plan, runners, 2, Lines(Console()))
        files = [path for path in (plan.folder / "work").glob("*/**/*") if path.is_file() and path.name != job.RECORD]
        made.append({path: STAMP.sub(b"", path.read_bytes()) for path in files})
        assert not any("fork server" in log.read_text() for log in (plan.folder / "logs").iterdir())
        shutil.rmtree(plan.folder)
        plan.folder.mkdir()
    assert made[0] == made[1]
    assert {"trace", "bind.layer_0", "block_0", "join.layer_0", "combine", "parity"} <= {p.parts[-2] for p in made[0]}


@pytest.mark.parametrize(
    "words",
    [
        ("bind", "--model", "nowhere", "--skeletons", ".", "--group", "head"),
        ("bind", "--nonsense"),
    ],
    ids=" ".join,
)
def test_a_module_ends_in_a_fork_as_in_a_process(words: tuple[str, ...], tmp_path: Path) -> None:
    runner, logs = toolchain.exporter(), []
    servers = forks.Servers(runner.environment())
    for launcher in (process.Launcher(runner), process.Launcher(runner, servers)):
        with (tmp_path / "log").open("wb") as log:
            how = ("python", "-m", "exporters", *words), tmp_path, log
            child = launcher.fork(*how) if launcher.servers else launcher.start(*how)
            assert child
            logs.append((child.wait()[0], (tmp_path / "log").read_text()))
    servers.close()
    assert logs[0] == logs[1]
    assert logs[0][0]
    assert "nowhere" in logs[0][1] or "usage" in logs[0][1]


@pytest.mark.toolchain
@pytest.mark.parametrize(("tool_name", "library"), [("model_transform.py", "libtorch"), (TOOL, "pymlir")])
def test_a_real_server_holds_the_libraries_and_no_thread(tool_name: str, library: str, tmp_path: Path) -> None:
    runner = toolchain.find().runner
    servers = forks.Servers(runner.environment())
    with (tmp_path / "log").open("wb") as log:
        child = servers.start((tool_name, "--version"), tmp_path, log)
        assert child
        assert child.wait()[0] == 0
    server = servers._servers[tool_name]._process
    assert server
    proc = Path(f"/proc/{server.pid}")
    assert library in (proc / "maps").read_text()
    assert len(os.listdir(proc / "task")) == 1
    servers.close()
    assert not proc.exists()
    assert (tmp_path / "log").read_text().count(tool_name) == 1
