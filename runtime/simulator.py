"""Finds the vendor's runtime: a board's, or the compiler's CPU simulator of a chip, and makes the latter usable.

Loads nothing itself: the libraries print, exit and crash, so only the engine's own process opens them.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from contract import folders
from contract.errors import UserError, one_of
from contract.modes import CHIPS

BOARD = Path("/opt/sophon/libsophon-current/lib")
ENVIRONMENT = "HF2BMODEL_TPU_MLIR"  # names the compiler's environment where it is not beside the repository
_REPOSITORY = Path(__file__).resolve().parent.parent
_SHIM = Path(__file__).with_name("yield.c")
_log = logging.getLogger("hf2bmodel")


@dataclass(frozen=True)
class Libraries:
    """Absolute paths, in loading order; `preload` holds the simulator of the chip, empty on a board."""

    preload: tuple[Path, ...]
    bmlib: Path
    bmrt: Path

    @property
    def simulated(self) -> bool:
        return bool(self.preload)


def find(chip: str) -> Libraries:
    """A board's libraries where there is a board, else the simulator of `chip`. UserError where there is neither."""
    if chip not in CHIPS:
        raise UserError(f"chip {chip!r} is unknown", remedy=f"use {one_of(CHIPS)}")
    if _board():
        return Libraries((), BOARD / "libbmlib.so", BOARD / "libbmrt.so")
    simulated = CHIPS[chip].simulator
    if simulated is None:
        raise UserError(f"{unsimulated(chip)}, and no board is here", remedy="take the build to a board")
    for folder in _folders():
        found = Libraries((folder / simulated,), folder / CHIPS[chip].bmlib, folder / "libbmrt.so.1.0")
        if all(path.is_file() for path in (*found.preload, found.bmlib, found.bmrt)):
            return found
    raise UserError(f"neither a board nor the simulator of {chip} is here", remedy="run `make setup`")


def unsimulated(chip: str) -> str:
    """Why a bmodel for `chip` cannot be run here, where that is so however well all is installed; else empty."""
    none = CHIPS[chip].simulator is None and not _board()
    return f"the tpu-mlir wheel has no simulator of {chip} that takes a board's calls" if none else ""


def _board() -> bool:
    return (BOARD / "libbmrt.so").exists() and any(Path("/dev").glob("bm*"))


def _folders() -> list[Path]:
    """Where tpu-mlir's libraries may lie: a named environment alone, or the usual places."""
    pattern = "lib/python3.*/site-packages/tpu_mlir/lib"
    if named := os.environ.get(ENVIRONMENT):
        folders = sorted(Path(named).resolve().glob(pattern))
        if not folders:
            raise UserError("no tpu-mlir in there", f"{ENVIRONMENT}={named}", "name the environment `make setup` made")
        return folders
    container = os.environ.get("TPUC_ROOT")
    return [*sorted((_REPOSITORY / ".venv-tpu-mlir").glob(pattern)), *([Path(container) / "lib"] if container else [])]


@functools.cache
def shim() -> Path | None:
    """The library to preload into the simulator's process, built on first use; None, with a warning, without gcc."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    cache = folders.kept()
    built = cache / f"yield-{hashlib.sha256(_SHIM.read_bytes()).hexdigest()[:16]}.so"
    if built.is_file():
        return built
    try:
        if compiler is None:
            raise FileNotFoundError("no gcc on PATH")
        if set(str(built)) & set(" :"):
            raise OSError(f"LD_PRELOAD takes no path like {built}")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            part = Path(scratch) / built.name
            command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(part), str(_SHIM), "-ldl"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            os.replace(part, built)
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("the simulator will be 25 to 150 times slower: %s could not be built (%s)", _SHIM.name, error)
        return None
    return built
