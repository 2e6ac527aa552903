"""`hf2bmodel doctor`: what is here, in which version, and for what is missing the command that mends it.

Changes nothing. Exit 1 if a build could not run. It works with nothing installed: standard library, rich if there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from compile import toolchain
from contract.errors import UserError
from contract.modes import CHIPS

SETUP = "make setup"
# What a build of the smallest model takes; `build` itself checks against the plan's estimate.
MIN_DISK_GB, MIN_MEMORY_GB = 1, 4
_BUNDLED_LIBC = Path("lib", "third_party", "libc.so.6")


@dataclass(frozen=True)
class Part:
    """`found`: version, place or amount. `remedy`: empty where all is well. `needed`: a build cannot do without."""

    name: str
    found: str
    remedy: str = ""
    needed: bool = True


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser("doctor", help="say what is here, what is missing, and what mends it")
    parser.add_argument(
        "--toolchain", default=os.environ.get("TOOLCHAIN") or "auto", help="auto, path, managed, docker"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    parts = list(examine(args.toolchain))
    _show(parts)
    return 1 if any(part.remedy and part.needed for part in parts) else 0


def examine(kind: str) -> Iterator[Part]:
    """Every part, those of the exporter first. UserError for a `kind` of toolchain that does not exist."""
    yield _python()
    yield from _packages()
    yield from _compiler(kind)
    yield _program("gcc", "--version", "install gcc (Debian: apt install gcc)", needed=True)
    yield _program("g++", "--version", "install g++ (Debian: apt install g++)", needed=True)
    npm = "install npm (Debian: apt install npm), or let stories15m come from the hub"
    yield _program("npm", "--version", npm, needed=False)
    yield _amount("disk", shutil.disk_usage(Path.cwd()).free / 1e9, MIN_DISK_GB, "free some space, or build with OUT=")
    yield _amount("memory", _available_memory() / 1e9, MIN_MEMORY_GB, "close other programs, or use JOBS=1")


def _python() -> Part:
    version = sys.version.split()[0]
    good = sys.version_info >= (3, 10)
    return Part("exporter: python", f"{version} ({sys.executable})", "" if good else SETUP)


def _packages() -> Iterator[Part]:
    """Versions as installed against the lock; another version is told, and only an absent package is missing."""
    lock = toolchain.REPOSITORY / "requirements" / "exporter.lock"
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", lock.read_text(encoding="utf-8"), re.MULTILINE))
    for name in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "safetensors", "huggingface_hub"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Part(f"exporter: {name}", "missing", SETUP)
            continue
        wanted = pinned.get(name, version)
        differs = version.split("+")[0] != wanted
        found = f"{version}, tested with {wanted}" if differs else version
        yield Part(f"exporter: {name}", found, SETUP if differs else "", needed=False)


def _compiler(kind: str) -> Iterator[Part]:
    trap = _glibc_trap(kind)
    if trap:
        yield Part("compiler: C library", trap, SETUP)
    try:
        found = toolchain.find(kind)
        version = found.ask()
    except UserError as error:
        yield Part("compiler: tpu_mlir", f"{error.where}: {error.what}".removeprefix(": "), error.remedy or SETUP)
        return
    if found.runner.docker is None:
        yield _compiler_python(found)
    other = "" if toolchain.TESTED in version else f", tested with {toolchain.TESTED}"
    yield Part("compiler: tpu_mlir", f"{version} ({found.kind}){other}", SETUP if other else "", needed=False)
    for chip in CHIPS.values():
        if chip.simulator is None:
            yield Part(f"simulator: {chip.name}", "none in the wheel: compiled only", needed=False)
            continue
        library = found.root / "lib" / chip.simulator if found.root else None
        there = library is not None and library.is_file()
        # Without the simulator a build stops short of its two upper rungs (--verify host).
        yield Part(
            f"simulator: {chip.name}", str(library) if there else "missing", "" if there else SETUP, needed=False
        )


def _compiler_python(found: toolchain.Toolchain) -> Part:
    env = found.runner.environment()
    python = shutil.which("python3", path=env["PATH"])
    version = _output([python, "--version"], env) if python else ""
    return Part("compiler: python", f"{version.removeprefix('Python ')} ({python})" if version else "missing")


def _glibc_trap(kind: str) -> str:
    """tpu_mlir's own libc stands first on LD_LIBRARY_PATH, and kills every tool where the system's is newer."""
    if kind not in ("auto", "managed"):
        return ""
    libc = next(toolchain.managed_folder().glob(f"lib/python3*/site-packages/tpu_mlir/{_BUNDLED_LIBC}"), None)
    found = re.search(rb"GNU C Library [^\n]*? version (\d+)\.(\d+)", libc.read_bytes()) if libc else None
    if not found:
        return ""
    bundled, host = (int(found[1]), int(found[2])), os.confstr("CS_GNU_LIBC_VERSION") or ""
    newer = tuple(map(int, re.findall(r"\d+", host)[:2])) > bundled
    return f"{libc} is older than the system's {host}" if newer else ""


def _program(name: str, option: str, remedy: str, needed: bool) -> Part:
    path = shutil.which(name)
    version = _output([path, option], dict(os.environ)) if path else ""
    return Part(name, f"{version} ({path})" if version else "missing", "" if version else remedy, needed)


def _output(command: list[str], env: dict[str, str]) -> str:
    """The first line that a command prints; empty if it fails."""
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.strip().splitlines() or [""])[0] if done.returncode == 0 else ""


def _amount(name: str, free: float, least: int, remedy: str) -> Part:
    return Part(f"{name} free", f"{free:.1f} GB", "" if free >= least else f"{remedy} ({least} GB at least)")


def _available_memory() -> int:
    text = Path("/proc/meminfo").read_text(encoding="utf-8")
    return int(text.split("MemAvailable:")[1].split()[0]) * 1024


def _show(parts: list[Part]) -> None:
    marks = {part: "ok" if not part.remedy else "missing" if part.needed else "note" for part in parts}
    if sys.stdout.isatty():
        try:
            return _table(marks)
        except ImportError:
            pass
    for part, mark in marks.items():
        print(f"{mark:8}{part.name:27}{part.found}" + (f"  ->  {part.remedy}" if part.remedy else ""))


def _table(marks: dict[Part, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "note": "yellow", "missing": "bold red"}
    table = Table("", "part", "found", "what mends it", box=None, pad_edge=False, header_style="bold")
    for part, mark in marks.items():
        table.add_row(Text(mark, styles[mark]), part.name, Text(part.found, overflow="fold"), Text(part.remedy))
    Console().print(table)
