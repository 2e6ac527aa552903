"""The script of a plan does by hand what the executor does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from compile.script import render
from compile.steps import COMPILER, EXPORTER, Plan, Step
from compile.toolchain import Runner
from tests.compile.builds import RUNNERS, small_plan

ODD = 'it\'s; a "$(touch /tmp/never)" name'
SHOW = "import os, sys; open(sys.argv[1], 'w').write(sys.argv[2] + os.environ.get('WHO', ''))"


def make(folder: Path, *extra: Step) -> Plan:
    python = Path(sys.executable).name
    steps = (
        Step("a", ((python, "-c", SHOW, "one.txt", ODD), (python, "-c", SHOW, "two.txt", "x")), (), ("*",), EXPORTER),
        Step("combine", (("cp", "../a/one.txt", f"{folder.name}.bmodel"),), ("a/",), ("*",), COMPILER),
        *extra,
    )
    return small_plan(folder, *steps)


def bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False)


def test_a_script_runs_every_step_in_its_own_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a b'c"
    runners = {**RUNNERS, EXPORTER: replace(RUNNERS[EXPORTER], env={"WHO": "me & you"})}
    done = bash(render(make(folder), runners), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "== a\n== combine\n", "")
    assert (folder / "work" / "a" / "one.txt").read_text() == ODD + "me & you"
    assert (folder / f"{folder.name}.bmodel").read_text() == ODD + "me & you"
    assert not Path("/tmp/never").exists()


def test_a_script_stops_at_the_first_failure(tmp_path: Path) -> None:
    plan = make(tmp_path / "b", Step("bad", (("false",), ("touch", "after")), (), (), COMPILER))
    assert bash(render(plan, RUNNERS), tmp_path).returncode == 1
    assert not (tmp_path / "b" / "work" / "bad" / "after").exists()


def test_a_script_can_run_twice(tmp_path: Path) -> None:
    script = render(make(tmp_path / "b"), RUNNERS)
    assert [bash(script, tmp_path).returncode for _ in range(2)] == [0, 0]


def test_a_runner_puts_its_folders_first(tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "cp"
    tool.parent.mkdir()
    tool.write_text(f"#!{sys.executable}\nimport sys; open(sys.argv[2], 'w').write('mine')\n")
    tool.chmod(0o755)
    runners = {**RUNNERS, COMPILER: Runner((str(tool.parent),))}
    assert bash(render(make(tmp_path / "b"), runners), tmp_path).returncode == 0
    assert (tmp_path / "b" / "b.bmodel").read_text() == "mine"


@pytest.mark.parametrize("long", [False, True])
def test_long_commands_are_broken_and_stay_the_same(tmp_path: Path, long: bool) -> None:
    words = ["--option", "value", "-x", "--", "a b", *(["--more=" + "y" * 40] * 4 if long else [])]
    code = "import sys; open('out', 'w').write('|'.join(sys.argv[1:]))"
    step = Step("s", ((Path(sys.executable).name, "-c", code, *words),), (), ("out",), EXPORTER)
    script = render(make(tmp_path / "b", step), RUNNERS)
    assert bash(script, tmp_path).returncode == 0
    assert (tmp_path / "b" / "work" / "s" / "out").read_text() == "|".join(words)
    assert max(map(len, script.splitlines())) < 260
