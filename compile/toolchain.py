"""Finds the two environments and says how a command is started in each.

The exporter's is the Python that runs us. The compiler's (tpu-mlir) is looked for on PATH (inside the sophgo/tpuc_dev
container), in a release that TPUC_ROOT names, then in the environment that `make setup` makes; or, on request, in
docker. It installs nothing: scripts/setup.py does. compile.docker spells docker's command lines.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path

from compile import deploy, digest, docker, kernels
from compile.names import NORMALISE
from compile.plan import REBIND, REGRID
from compile.steps import COMPILER, EXPORTER
from contract import folders
from contract.errors import UserError, one_of
from contract.modes import TOOLCHAINS

REPOSITORY = Path(__file__).resolve().parent.parent
MANAGED = ".venv-tpu-mlir"
TOOLS = ("model_transform.py", "model_deploy.py", "model_tool")
# Threads that wait sleep: steps beside this one want the cores. On 2 cores that four processes wanted, a tiny model's
# parity step took 8.5 to 39.6 s of CPU with threads that spin (libgomp's way unless told), and 6.9 s with these.
# OpenBLAS starts its threads at import, which a fork server may not have (compile.forkserver); the sums are torch's.
EXPORTER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
# What of ours decides the compiler's results.
SCRIPTS = (REBIND, REGRID, NORMALISE, Path(kernels.__file__))
TESTED = "1.30.2"  # the version every flag and figure here was measured with


@dataclass(frozen=True)
class Runner:
    """How a command of a plan is started.

    `path`: folders put before PATH. `env`: variables to set. `docker`: the container that runs it, if one does.
    `identity`: what the result depends on beside the command and its inputs; a step is done again when it changes.
    """

    path: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    docker: docker.Container | None = None
    identity: str = ""

    def argv(self, command: tuple[str, ...], cwd: str) -> list[str]:
        return [*self.docker.run(cwd), *command] if self.docker else list(command)

    def environment(self) -> dict[str, str]:
        if self.docker:
            return dict(os.environ)
        path = os.pathsep.join((*self.path, os.environ.get("PATH", os.defpath)))
        return {**os.environ, **self.env, "PATH": path}

    def shell(self) -> str:
        """The same as a word list for a script, in front of a command."""
        if self.docker:
            return f'{shlex.join(self.docker.run("")[:-2])} "$PWD" {shlex.quote(self.docker.image)}'
        path = "".join(f"{shlex.quote(folder)}:" for folder in self.path)
        return " ".join(["env", f'PATH={path}"$PATH"', *(f"{k}={shlex.quote(v)}" for k, v in self.env.items())])


@dataclass(frozen=True)
class Toolchain:
    """tpu-mlir as found. `root`: the package (or release) folder, for its libraries; None where it is in docker."""

    kind: str
    runner: Runner
    root: Path | None

    @cached_property
    def version(self) -> str:
        """As model_transform.py says it, as in v1.30.2-20260831. UserError if it does not start. That takes a second,
        so it is asked again only when the files that say it have changed."""
        memory = self._memory()
        with suppress(OSError, UnicodeDecodeError):
            if memory and re.fullmatch(r"[\w.+-]+\n", text := memory.read_text(encoding="ascii")):
                return text.rstrip()
        version = self.ask()
        if memory:
            with suppress(OSError):  # it is asked again
                memory.parent.mkdir(parents=True, exist_ok=True)
                folders.write_whole(memory, f"{version}\n")
        return version

    def ask(self) -> str:
        """The version, from the tool itself; in docker, as pinned. UserError if it does not start."""
        if self.runner.docker:
            return f"{self.runner.docker.image} with tpu_mlir {TESTED}"
        env = self.runner.environment()
        command = [shutil.which(TOOLS[0], path=env["PATH"]) or TOOLS[0], "--version"]
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        except OSError as error:
            raise UserError(f"does not start ({error})", command[0], "run `make setup`") from error
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise UserError(f"does not start: {last}", command[0], "run `hf2bmodel doctor`")
        return done.stdout.split()[-1]

    def _memory(self) -> Path | None:
        """A file for each state of what says the version: the tool, and the library that it has it from. None where
        that is not to be found, or costs nothing to ask."""
        if self.runner.docker:
            return None
        env = self.runner.environment()
        tool = shutil.which(TOOLS[0], path=env["PATH"])
        places = [self.root / "python"] if self.root else []
        places += map(Path, filter(None, env.get("PYTHONPATH", "").split(os.pathsep)))
        libraries = sorted(found for place in places for found in place.glob("pymlir*.so"))
        if not (tool and libraries):
            return None
        state = digest.combine(f"{path} {digest.stamp(path)}" for path in (Path(tool), *libraries))
        return folders.kept() / "compilers" / state[:16]


def find(kind: str = "auto", folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> Toolchain:
    """The compiler's environment. `folder`: the build folder, which docker must see. UserError where there is none."""
    if kind not in TOOLCHAINS:
        raise UserError(f'"{kind}" is unknown', "TOOLCHAIN", f"use {one_of(TOOLCHAINS)}")
    if kind == "docker":
        return _docker(folder or Path.cwd(), environ)
    for name, look in (("path", _on_path), ("managed", _managed)):
        found = look(environ) if kind in ("auto", name) else None
        if found:
            return found
    raise UserError("tpu-mlir is not here", remedy="run `make setup`, or use TOOLCHAIN=docker")


def runners(toolchain: Toolchain) -> dict[str, Runner]:
    """Both environments with their identities, for compile.executor. UserError if the compiler does not start."""
    scripts = hashlib.sha256(b"".join(script.read_bytes() for script in SCRIPTS)).hexdigest()
    compiler = replace(toolchain.runner, identity=f"{toolchain.version} {scripts}")
    return {EXPORTER: exporter(), COMPILER: compiler}


def exporter() -> Runner:
    """This Python, with the digest of the exporter's sources."""
    ours = (REPOSITORY / name for name in ("exporters", "patches", "contract"))
    versions = " ".join(f"{name} {version}" for name, version in exporter_versions().items())
    path = (str(Path(sys.executable).parent),)
    return Runner(path, EXPORTER_ENVIRONMENT, identity=f"{versions} {digest.sources(ours)}")


def exporter_versions() -> dict[str, str]:
    """Of the packages that decide what is exported; empty where one is missing."""
    found = {}
    for name in ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def own_sources() -> str:
    """The digest of all code of ours that decides the bytes of a bmodel."""
    return digest.sources(REPOSITORY / name for name in ("contract", "recipes", "patches", "exporters", "compile"))


def managed_folder(environ: Mapping[str, str] = os.environ) -> Path:
    return Path(environ.get("HF2BMODEL_TPU_MLIR") or REPOSITORY / MANAGED)


def _on_path(environ: Mapping[str, str]) -> Toolchain | None:
    path, release = environ.get("PATH", ""), environ.get("TPUC_ROOT", "")
    tools = [found for tool in TOOLS if (found := shutil.which(tool, path=path))]
    if len(tools) == len(TOOLS):
        root = Path(release) if release else _package(Path(tools[0]))
        return Toolchain("path", Runner((), deploy.ENVIRONMENT), root)
    if release and (Path(release) / "python" / "tools" / TOOLS[0]).is_file():
        env = docker.release_environment(release)
        return Toolchain("path", Runner(docker.release_path(release), {**env, **deploy.ENVIRONMENT}), Path(release))
    return None


def _managed(environ: Mapping[str, str]) -> Toolchain | None:
    folder = managed_folder(environ) / "bin"
    if not all((folder / tool).is_file() for tool in TOOLS):
        return None
    return Toolchain("managed", Runner((str(folder),), deploy.ENVIRONMENT), _package(folder / TOOLS[0]))


def _package(tool: Path) -> Path | None:
    """The tpu_mlir package that a console script of its environment starts."""
    return next(tool.resolve().parent.parent.glob("lib/python3*/*-packages/tpu_mlir"), None)


def _docker(folder: Path, environ: Mapping[str, str]) -> Toolchain:
    container = docker.Container.of(folder.absolute(), REPOSITORY, environ)
    if not shutil.which("docker", path=environ.get("PATH", "")):
        raise UserError("docker is not here", "TOOLCHAIN=docker", "install docker, or run `make setup` without it")
    if not container.ready():
        raise UserError("tpu-mlir is not in the container yet", "TOOLCHAIN=docker", "run `make setup TOOLCHAIN=docker`")
    return Toolchain("docker", Runner(docker=container), None)
