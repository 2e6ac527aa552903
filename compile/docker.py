"""The compiler inside the sophgo/tpuc_dev container: its command lines. Not run where they were written (no docker).

The image holds what tpu-mlir needs, not tpu-mlir itself. So `python -m compile.docker` (from `make setup
TOOLCHAIN=docker`) makes, inside the container and once, a virtual environment in a cache folder of the host that every
later step mounts. A release of tpu-mlir that the user unpacked and names by TPUC_ROOT is mounted instead.
Every folder is mounted under its own name, so that a path means the same inside and outside.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compile import deploy
from contract import folders

IMAGE = "sophgo/tpuc_dev:v3.4"  # Ubuntu 22.04 with Python 3.10; another tag by HF2BMODEL_TPUC_IMAGE
_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def image(environ: Mapping[str, str]) -> str:
    return environ.get("HF2BMODEL_TPUC_IMAGE") or IMAGE


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where the container's environment lives, on the host."""
    return folders.kept(environ).absolute() / image(environ).replace("/", "-").replace(":", "-")


def release_path(release: str) -> tuple[str, ...]:
    """The tools of an unpacked release, as its own envsetup.sh puts them on PATH."""
    return f"{release}/python/tools", f"{release}/bin"


def release_environment(release: str) -> dict[str, str]:
    """The variables of an unpacked release, as its own envsetup.sh sets them."""
    return {
        "TPUC_ROOT": release,
        "PYTHONPATH": f"{release}/python:{release}/customlayer/python",
        "LD_LIBRARY_PATH": f"{release}/lib",
    }


@dataclass(frozen=True)
class Container:
    """`folder`: the build folder, the only one that a step may write to. `release`: TPUC_ROOT, or empty; then `cache`
    is not used."""

    folder: Path
    repository: Path
    release: str
    image: str
    cache: Path
    user: str = f"{os.getuid()}:{os.getgid()}"

    @classmethod
    def of(cls, folder: Path, repository: Path, environ: Mapping[str, str]) -> Container:
        """As the environment's variables say."""
        return cls(folder, repository, environ.get("TPUC_ROOT", ""), image(environ), cache_folder(environ))

    def ready(self) -> bool:
        return bool(self.release) or (self.cache / "ready").is_file()

    def run(self, cwd: str) -> tuple[str, ...]:
        """docker's own words, before a step's command. --init hands Ctrl-C on to the compiler."""
        if self.release:
            tools, env = release_path(self.release), release_environment(self.release)
            mounted = f"{self.release}:{self.release}:ro"
        else:
            tools, env = (f"{self.cache}/bin",), {}
            mounted = f"{self.cache}:{self.cache}:ro"
        env = {"HOME": "/tmp", **env, **deploy.ENVIRONMENT, "PATH": ":".join((*tools, *_SYSTEM_PATH))}
        mounts = (f"{self.folder}:{self.folder}", f"{self.repository}:{self.repository}:ro", mounted)
        return (
            *("docker", "run", "--rm", "--init", "--user", self.user),
            *(word for mount in mounts for word in ("-v", mount)),
            *(word for name, value in env.items() for word in ("-e", f"{name}={value}")),
            *("-w", cwd, self.image),
        )

    def setup(self) -> tuple[tuple[str, ...], ...]:
        """Commands that install tpu-mlir into the cache folder; the last leaves the mark of success."""
        home, lock = self.cache, self.repository / "requirements" / "compiler.lock"
        start = (
            *("docker", "run", "--rm", "--init", "--user", self.user, "-e", "HOME=/tmp"),
            *("-v", f"{home}:{home}", "-v", f"{self.repository}:{self.repository}:ro", "-w", str(home), self.image),
        )
        return (
            (*start, "python3", "-m", "venv", str(home)),
            (*start, f"{home}/bin/python", "-m", "pip", "install", "-r", str(lock)),
            (*start, "touch", f"{home}/ready"),
        )


def main() -> int:
    """Install tpu-mlir for the container, unless it is there."""
    repository = Path(__file__).resolve().parent.parent
    container = Container.of(Path.cwd(), repository, os.environ)
    if container.ready():
        return 0
    container.cache.mkdir(parents=True, exist_ok=True)
    for command in container.setup():
        print(f"$ {shlex.join(command)}", flush=True)
        try:
            code = subprocess.run(command, check=False).returncode
        except FileNotFoundError:
            print("TOOLCHAIN=docker: docker is not here; install docker", file=sys.stderr)
            return 2
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
