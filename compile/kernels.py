"""The compiler's own kernels for attention: it writes, builds (cmake, g++) and loads them while it compiles a net, and
keeps them in ~/.ppl/cache, or where PPL_CACHE_PATH says.

Where flag.txt says that a kernel was built and it is not there, attention is left out of every net that needs it,
without a word (tpu-mlir 1.30.2; a block's cosine falls to 0.6), and it stays so. A cache that many processes write at
once comes to that. So each step has a cache of its own, in its folder, with links to the kernels that are known to be
whole; what it builds anew is added to them when the step has ended well. Kernels whose blocks do not fit the chip's
memory (code 17: the compiler tries smaller ones next) are remembered as well, for they take as long to build.

Of more kernels than CACHE_ITEMS, 100 where nobody says, the compiler removes the rest when it starts (ppl_jit.cpp), and
does so through our links: it empties what they point to. So it is told of a number that no cache reaches.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from pathlib import Path

from contract import folders

FOLDER = ".ppl"  # in the working directory of the compiler, which is the step's
ENVIRONMENT = {"PPL_CACHE_PATH": FOLDER, "CACHE_ITEMS": str(10**9)}
_FLAGS, _BUILT, _UNFIT = "flag.txt", "0", "17"
_DONE, _LIBRARIES = "compiled", "lib"  # all of a kernel that is read again
_TRIED = "unfit"  # in place of these, where it does not fit


class Kernels:
    """Those that are whole, of one toolchain, shared by all builds of a user."""

    def __init__(self, toolchain: str, linked: bool = True) -> None:
        """`toolchain`: its identity. `linked`: whether its processes see the files of this machine as we do."""
        self.folder = folders.kept() / "kernels" / hashlib.sha256(toolchain.encode()).hexdigest()[:16]
        self._linked = linked

    def lend(self, step: Path) -> None:
        """Put links to all of them where the commands that run in `step` look."""
        cache = step / FOLDER
        cache.mkdir()
        known = [path for path in sorted(self.folder.glob("*")) if path.name.isdigit()] if self._linked else []
        codes = {path: code for path in known if (code := _code(path))}
        for path in codes:
            (cache / path.name).symlink_to(path)
        (cache / _FLAGS).write_text("".join(f"{p.name} {code}\n" for p, code in codes.items()), encoding="ascii")

    def collect(self, step: Path) -> str:
        """Keep what was built in `step`. Why its nets cannot be trusted; empty where they can."""
        cache = step / FOLDER
        codes = dict(line.split() for line in (cache / _FLAGS).read_text(encoding="ascii").splitlines())
        fresh = {name: code for name, code in codes.items() if not (cache / name).is_symlink()}
        if odd := set(fresh.values()) - {_BUILT, _UNFIT}:
            return f"the compiler's kernel for attention could not be built (code {min(odd)}): it needs cmake and g++"
        built = [name for name, code in codes.items() if code == _BUILT]
        if lost := [name for name in built if not _has_library(cache / name)]:
            return f"the compiler's kernel {lost[0]} for attention is gone"
        if _left_out(step):
            return "the compiler left attention out of the net"
        with contextlib.suppress(OSError):  # a full disk, or another build that was faster: they are built anew
            for name, code in fresh.items():
                self._keep(cache / name, code == _BUILT)
        return ""

    def _keep(self, made: Path, fits: bool) -> None:
        target = self.folder / made.name
        if _code(target) or (fits and not (made / _DONE).is_file()):
            return
        shutil.rmtree(target, ignore_errors=True)  # of one that lost its files
        self.folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".", dir=self.folder))
        try:
            if fits:
                shutil.copytree(made / _LIBRARIES, part / _LIBRARIES)
            (part / (_DONE if fits else _TRIED)).touch()
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _code(kernel: Path) -> str:
    """What is known of a kernel in our cache; empty where that is nothing, or its files are gone."""
    if (kernel / _TRIED).exists():
        return _UNFIT
    return _BUILT if (kernel / _DONE).exists() and _has_library(kernel) else ""


def _has_library(kernel: Path) -> bool:
    return any((kernel / _LIBRARIES).glob("*.so"))


def _left_out(step: Path) -> bool:
    """Whether a net has fused attention and its list of commands, where it has one, none for it."""
    fused = any("tpu.FAttention" in path.read_text(encoding="utf-8") for path in step.glob("*/final.mlir"))
    commands = "".join(p.read_text(encoding="utf-8", errors="replace") for p in step.glob("compiler_profile_*.txt"))
    return fused and "|MM2|" in commands and "FAttention" not in commands
