"""Which tpu-mlir is taken, how its commands are started, and docker's command lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from compile import docker, toolchain
from compile.docker import Container
from compile.script import render
from compile.steps import COMPILER, EXPORTER
from compile.toolchain import TOOLS, Runner, find
from contract.errors import UserError
from tests.compile.builds import recipe_plan

GOLDEN = Path(__file__).parent.parent / "golden"


def tools(folder: Path, version: str = "v9.9.9-20300101", code: int = 0) -> Path:
    """An environment with stand-ins for the vendor's tools, which print what theirs print."""
    (folder / "bin").mkdir(parents=True)
    for name in TOOLS:
        path = folder / "bin" / name
        text = f"print({'INFO : TPU-MLIR ' + version!r}); print({name + ' ' + version!r}); sys.exit({code})"
        path.write_text(f"#!{sys.executable}\nimport sys; {text}\n")
        path.chmod(0o755)
    (folder / "lib" / "python3.10" / "site-packages" / "tpu_mlir").mkdir(parents=True)
    return folder


@pytest.fixture
def managed(tmp_path: Path) -> dict[str, str]:
    return {"PATH": "/nowhere", "HF2BMODEL_TPU_MLIR": str(tools(tmp_path / "managed"))}


def test_path_comes_before_the_managed_environment(tmp_path: Path, managed: dict[str, str]) -> None:
    folder = tools(tmp_path / "container")
    environ = {**managed, "PATH": str(folder / "bin")}
    assert find(environ=managed).kind == "managed"
    found = find(environ=environ)
    assert (found.kind, found.runner.path) == ("path", ())
    assert found.root == folder / "lib" / "python3.10" / "site-packages" / "tpu_mlir"
    assert find("managed", environ=environ).kind == "managed"


def test_half_a_toolchain_is_none(tmp_path: Path, managed: dict[str, str]) -> None:
    folder = tools(tmp_path / "container")
    (folder / "bin" / "model_tool").unlink()
    assert find(environ={**managed, "PATH": str(folder / "bin")}).kind == "managed"


def test_a_release_named_by_its_root_is_taken(tmp_path: Path) -> None:
    script = tmp_path / "python" / "tools" / TOOLS[0]
    script.parent.mkdir(parents=True)
    script.touch()
    found = find(environ={"PATH": "/nowhere", "TPUC_ROOT": str(tmp_path)})
    assert (found.kind, found.root) == ("path", tmp_path)
    assert found.runner.path == (f"{tmp_path}/python/tools", f"{tmp_path}/bin")
    assert found.runner.env["LD_LIBRARY_PATH"] == f"{tmp_path}/lib"


@pytest.mark.parametrize("kind", ["auto", "path", "managed"])
def test_nothing_there(tmp_path: Path, kind: str) -> None:
    environ = {"PATH": "/nowhere", "HF2BMODEL_TPU_MLIR": str(tmp_path)}
    with pytest.raises(UserError, match="tpu-mlir is not here; run `make setup`"):
        find(kind, environ=environ)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r'TOOLCHAIN: "podman" is unknown; use auto, path, managed or docker'):
        find("podman")


def test_the_version_is_what_the_tool_says(managed: dict[str, str]) -> None:
    found = find(environ=managed)
    assert found.version == "v9.9.9-20300101"
    (Path(found.runner.path[0]) / "model_transform.py").unlink()
    assert found.version == "v9.9.9-20300101"  # it is asked once


@pytest.fixture
def library(managed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Which the tools have their version from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = Path(managed["HF2BMODEL_TPU_MLIR"]) / "lib" / "python3.10" / "site-packages" / "tpu_mlir"
    (package / "python").mkdir()
    library = package / "python" / "pymlir.cpython-310-x86_64-linux-gnu.so"
    library.write_bytes(b"v9.9.9")
    return library


def says(tool: Path, version: str) -> None:
    """In place: the file's times tell."""
    tool.write_text(f"#!{sys.executable}\nprint('x {version}')\n")


def test_the_version_is_remembered_until_the_compiler_changes(managed: dict[str, str], library: Path) -> None:
    tool = Path(managed["HF2BMODEL_TPU_MLIR"]) / "bin" / TOOLS[0]
    stands_for = tool.with_name("python")  # the tool itself stays as it is
    stands_for.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'print(\"x v1\")'\n")
    stands_for.chmod(0o755)
    tool.write_text(f"#!/bin/sh\nexec {stands_for}\n")
    assert find(environ=managed).version == "v1"
    stands_for.unlink()
    assert find(environ=managed).version == "v1"  # not asked: it would not start
    library.write_bytes(b"v9.9.10")
    with pytest.raises(UserError, match="does not start"):
        _ = find(environ=managed).version
    says(tool, "v2")
    assert find(environ=managed).version == "v2"
    says(tool, "v3")
    assert find(environ=managed).version == "v3"


@pytest.mark.parametrize("damaged", [b"", b"v9.9.9-2030", b"\xff\n", b"v1 v2\n"])
def test_a_damaged_memory_of_the_version_is_none(
    managed: dict[str, str], library: Path, tmp_path: Path, damaged: bytes
) -> None:
    assert find(environ=managed).version == "v9.9.9-20300101"
    (memory,) = (tmp_path / "cache" / "hf2bmodel" / "compilers").iterdir()
    memory.write_bytes(damaged)
    assert find(environ=managed).version == "v9.9.9-20300101"
    assert memory.read_text() == "v9.9.9-20300101\n"


def test_where_nothing_can_be_kept_the_version_is_asked_again(
    managed: dict[str, str], library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(library))  # no folder
    for _ in range(2):
        assert find(environ=managed).version == "v9.9.9-20300101"


def test_a_tool_that_does_not_start_is_told(tmp_path: Path) -> None:
    folder = tools(tmp_path / "broken", "version `GLIBC_2.36' not found", code=1)
    found = find(environ={"PATH": "/nowhere", "HF2BMODEL_TPU_MLIR": str(folder)})
    with pytest.raises(UserError, match=r"does not start: .*GLIBC_2\.36' not found; run `hf2bmodel doctor`"):
        _ = found.version


def test_a_step_is_done_again_by_another_compiler_or_exporter(managed: dict[str, str]) -> None:
    runners = toolchain.runners(find(environ=managed))
    assert runners[COMPILER].identity.startswith("v9.9.9-20300101 ")
    assert toolchain.exporter_versions()["onnx"] in runners[EXPORTER].identity
    assert runners[EXPORTER].path == (str(Path(sys.executable).parent),)


def test_a_runner_adds_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("KEPT", "yes")
    env = Runner(("/a", "/b"), {"X": "1"}).environment()
    assert (env["PATH"], env["X"], env["KEPT"]) == ("/a:/b:/usr/bin", "1", "yes")


HOME = Path("/opt/hf2bmodel")
CONTAINER = Container(Path("/builds/x"), HOME, "", docker.IMAGE, Path("/home/me/.cache/hf2bmodel/tpuc"), "1000:1000")
RELEASE = Container(Path("/builds/x"), HOME, "/opt/tpu-mlir_v1.30.2", docker.IMAGE, Path(), "1000:1000")


@pytest.mark.parametrize(("name", "container"), [("docker_wheel", CONTAINER), ("docker_release", RELEASE)])
def test_docker_command_lines_are_the_golden_ones(name: str, container: Container) -> None:
    """Not run here: no docker engine. UPDATE_GOLDEN=1 writes the file anew."""
    words = [container.run("/builds/x/work/block_0"), *(container.setup() if not container.release else ())]
    text = "\n".join(" ".join(command) for command in words) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_a_docker_runner_passes_the_command_on() -> None:
    runner = Runner(docker=CONTAINER)
    argv = runner.argv(("model_tool", "--info", "x"), "/builds/x/work/a")
    assert argv[:2] == ["docker", "run"]
    assert argv[-6:] == ["-w", "/builds/x/work/a", docker.IMAGE, "model_tool", "--info", "x"]


def test_a_script_for_docker_works_in_the_folder_of_each_step() -> None:
    script = render(recipe_plan("stories15m"), {EXPORTER: Runner(("/v/bin",)), COMPILER: Runner(docker=CONTAINER)})
    line = next(line for line in script.splitlines() if line.startswith("compiler()"))
    assert line.startswith("compiler() { docker run --rm --init --user 1000:1000 -v /builds/x:/builds/x ")
    assert line.endswith(f'-w "$PWD" {docker.IMAGE} "$@"; }}')


def test_docker_without_an_engine_or_without_setup(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="docker is not here"):
        find("docker", tmp_path, {"PATH": "/nowhere"})
    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\n")
    engine.chmod(0o755)
    environ = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with pytest.raises(UserError, match="run `make setup TOOLCHAIN=docker`"):
        find("docker", tmp_path, environ)
    ready = docker.cache_folder(environ) / "ready"
    ready.parent.mkdir(parents=True)
    ready.touch()
    assert find("docker", tmp_path, environ).kind == "docker"
