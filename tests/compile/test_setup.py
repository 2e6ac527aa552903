"""`make setup` on stand-in environments, and the Makefile's front. No package is installed here."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest

from contract.options import by_variable
from scripts import front

ROOT = Path(__file__).parent.parent.parent
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_python_that_does_not_run_is_passed_over(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pyenv's shim does for a version that is installed and not chosen."""
    shim = executable(tmp_path / f"python{HERE}", "#!/bin/sh\necho 'pyenv: command not found' >&2; exit 127\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert str(shim) in list(setup.candidates(HERE))
    assert setup.probe(str(shim), (HERE,), "sys") is None
    assert setup.probe(sys.executable, (HERE,), "sys") == sys.executable
    assert setup.probe(sys.executable, ("2.7",), "sys") is None
    assert setup.probe(sys.executable, (HERE,), "no_such_module") is None


def test_pyenv_is_looked_through(setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = executable(
        tmp_path / "versions" / "3.10.99" / "bin" / "python3.10", f"#!/bin/sh\necho 3.10 {tmp_path}/real\n"
    )
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert str(python) in list(setup.candidates("3.10"))
    assert setup.find_python(("3.10",), tmp_path) == f"{tmp_path}/real"


def test_no_python_is_one_line(setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(setup.Missing) as error:
        setup.find_python(("3.99",), Path("x/.venv-tpu-mlir"))
    assert str(error.value).startswith("no Python 3.99 for .venv-tpu-mlir; install it (`uv python install 3.99`")
    assert "\n" not in str(error.value)


def environment(folder: Path) -> Path:
    """A folder that looks like an environment, and whose Python runs."""
    executable(folder / "bin" / "pip", f"#!{folder}/bin/python\n")
    executable(folder / "bin" / "python", f"#!/bin/sh\necho {HERE} {folder}/bin/python\n")
    (folder / "pyvenv.cfg").write_text(f"version = {HERE}\n")
    return folder


def test_an_environment_stands_until_its_lock_changes(setup: ModuleType, tmp_path: Path) -> None:
    folder, lock = environment(tmp_path / "venv"), tmp_path / "a.lock"
    lock.write_text("numpy==1\n")
    assert not setup.stands(folder, [lock])
    setup.stamp(folder, [lock])
    assert setup.stands(folder, [lock])
    lock.write_text("numpy==2\n")
    assert not setup.stands(folder, [lock])


def test_a_half_made_or_moved_environment_is_not_used(setup: ModuleType, tmp_path: Path) -> None:
    folder = environment(tmp_path / "venv")
    assert setup.usable(folder, (HERE,))
    assert not setup.usable(folder, ("3.99",))
    folder.rename(tmp_path / "moved")
    assert not setup.usable(tmp_path / "moved", (HERE,))
    (tmp_path / "moved" / "bin" / "pip").unlink()
    assert not setup.usable(tmp_path / "moved", (HERE,))


def test_a_setup_that_stands_asks_pip_for_nothing(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, compiler = environment(tmp_path / "e"), environment(tmp_path / "c")
    monkeypatch.setattr(setup, "EXPORTER", exporter)
    monkeypatch.setattr(setup, "COMPILER", compiler)
    monkeypatch.setattr(setup, "run", lambda command, failure: pytest.fail(f"ran {command}"))
    monkeypatch.setenv("PATH", "/nowhere")
    setup.stamp(exporter, [setup.LOCKS / "exporter.lock", setup.LOCKS / "dev.lock"])
    setup.stamp(compiler, [setup.LOCKS / "compiler.lock"])
    for dev in (True, False):
        setup.make_exporter(dev)
    setup.make_compiler("auto")


@pytest.mark.parametrize(("failures", "fails"), [(0, False), (1, False), (2, True)])
def test_pip_gets_a_second_try(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, fails: bool
) -> None:
    tried = tmp_path / "tried"
    script = f"#!/bin/sh\necho x >> {tried}\n[ $(wc -l < {tried}) -gt {failures} ]\n"
    executable(tmp_path / "bin" / "python", script)
    monkeypatch.setattr(setup, "PAUSE", 0)
    with pytest.raises(setup.Missing, match="is a package registry within reach") if fails else nullcontext():
        setup.pip(tmp_path, "install", "anything")
    assert len(tried.read_text().splitlines()) == min(failures, 1) + 1


def test_tools_on_path_make_a_compiler_needless(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in setup.TOOLS:
        executable(tmp_path / "bin" / name, "#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert setup.tools_on_path()
    monkeypatch.setattr(setup, "COMPILER", tmp_path)
    assert not setup.tools_on_path()  # our own environment, activated


BUNDLED = b"\x7fELF...GNU C Library (Ubuntu GLIBC 2.35-0ubuntu3.8) stable release version 2.35.\n..."


@pytest.mark.parametrize(("host", "moved"), [((2, 36), True), ((2, 35), True), ((2, 31), False), ((), False)])
def test_the_bundled_c_library_gives_way_to_a_newer_one(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: tuple[int, ...], moved: bool
) -> None:
    folder = tmp_path / "lib" / "third_party"
    folder.mkdir(parents=True)
    for name in (*setup.GLIBC, "libstdc++.so.6"):
        (folder / name).write_bytes(BUNDLED)
    monkeypatch.setattr(setup, "host_glibc", lambda: host)
    for _ in range(2):
        setup.move_bundled_glibc(tmp_path)
    assert [(folder / name).exists() for name in setup.GLIBC] == [not moved] * 3
    assert (folder / "libstdc++.so.6").exists()
    if moved:
        assert all((folder / "bundled-glibc" / name).exists() for name in setup.GLIBC)


def test_a_full_disk_is_told_first(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(setup.NEEDED, setup.COMPILER, 10**9)
    with pytest.raises(setup.Missing, match=r"\.venv-tpu-mlir needs 1000000000 GB and"):
        setup.make(setup.COMPILER, setup.COMPILER_VERSIONS, [])


@pytest.mark.parametrize("name", ["exporter", "compiler", "dev"])
def test_locks_pin_every_package_of_their_short_list(name: str) -> None:
    lock = (ROOT / "requirements" / f"{name}.lock").read_text().splitlines()
    pinned = {}
    for line in lock:
        if not line.startswith("#"):
            package, _, version = line.partition("==")
            assert version, f"{line} is not pinned"
            assert "+" not in version, f"{line} is a local build"
            pinned[package.lower().replace("-", "_")] = version
    for line in (ROOT / "requirements" / f"{name}.in").read_text().splitlines():
        if line and not line.startswith("#"):
            package, _, version = line.partition("==")
            package = package.split(">")[0].split("<")[0].lower().replace("-", "_")
            assert package in pinned
            assert not version or pinned[package] == version


def make(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(["make", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stories15m", "MODE=int3"], 'MODE: "int3" is unknown; use int4, int8, bf16 or f16'),
        (["stories15m", "CHIP=bm1684"], 'CHIP: "bm1684" is unknown; use bm1684x, bm1688, cv186x, bm1684x2 or bm1690'),
        (["stories15m", "DEV=3"], 'DEV: "3" is unknown; use 1, 2, 4 or 8'),
        (["stories15m", "SAMPLE=x"], 'SAMPLE: "x" is unknown; use 1 or 0'),
        (["stories15m", "SEQ=-1"], 'SEQ: "-1" is no positive whole number'),
        (["stories15m", "JOBS=many"], 'JOBS: "many" is no positive whole number'),
        (["setup", "TOOLCHAIN=podman"], 'TOOLCHAIN: "podman" is unknown; use auto, path, managed or docker'),
        (["storys15m"], '"storys15m" is neither a recipe nor a target; did you mean stories15m?'),
        (["stories15m", "DEVICES=2"], "variable DEVICES is unknown; use MODE DEV CHIP"),
    ],
)
def test_make_refuses_a_slip_at_once(words: list[str], message: str) -> None:
    done = make(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "setup.py" not in done.stdout + done.stderr


def test_make_passes_variables_on_quoted() -> None:
    done = make("-n", "qwen2.5-0.5b", "MODE=int4", "DEV=2", "MODEL=/a b/it's", "OUT=o", "JOBS=3", "SEQ=8", "SAMPLE=0")
    line = next(line for line in done.stdout.splitlines() if "front.py build" in line)
    words = shlex.split(line)
    expected = ["--mode", "int4", "--devices", "2", "--seq-length", "8", "--no-sample", "--model", "/a b/it's"]
    assert front.command("qwen2.5-0.5b", words[4:])[1:] == [
        "build",
        "qwen2.5-0.5b",
        *expected,
        "--out",
        "o",
        "--jobs",
        "3",
    ]
    plain = make("-n", "stories15m", "MODEL=")
    line = next(line for line in plain.stdout.splitlines() if "front.py build" in line)
    assert front.command("stories15m", shlex.split(line)[4:])[1:] == ["build", "stories15m"]


def test_make_help_lists_recipes_targets_and_variables() -> None:
    text = make("help").stdout
    recipes = [path.stem for path in (ROOT / "recipes").glob("*.yaml")]
    assert all(f"  {name}\n" in text for name in recipes)
    assert all(f"  {name}=" in text for name in by_variable())
    assert all(f"  {name} " in text for name in ("setup", "demo", "doctor", "test", "lint", "clean"))
