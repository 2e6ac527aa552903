"""The compiler's own kernels for attention: it writes, builds (cmake, g++) and loads them while it compiles a net, and
keeps them in ~/.ppl/cache, or where PPL_CACHE_PATH says.

Where flag.txt says that a kernel was built and it is not there, or that it could not be built, attention is left out
of every net that needs it, without a word (tpu-mlir 1.30.2; a block's cosine falls to 0.6). Two processes that build
one kernel at once are enough to bring that about (code 17 is EEXIST), and it stays so. So each step has a cache of its
own, in its folder, with links to the kernels that are known to be whole; what it builds anew is added to them when the
step has ended well.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

FOLDER = ".ppl"  # in the working directory of the compiler, which is the step's
ENVIRONMENT = {"PPL_CACHE_PATH": FOLDER}
_FLAGS = "flag.txt"
_DONE, _LIBRARIES = "compiled", "lib"  # all of a kernel that is read again


class Kernels:
    """Those that are whole, of one toolchain, shared by all builds of a user."""

    def __init__(self, toolchain: str, linked: bool = True) -> None:
        """`toolchain`: its identity. `linked`: whether its processes see the files of this machine as we do."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = cache / "hf2bmodel/kernels" / hashlib.sha256(toolchain.encode()).hexdigest()[:16]
        self._linked = linked

    def lend(self, step: Path) -> None:
        """Put links to all of them where the commands that run in `step` look."""
        cache = step / FOLDER
        cache.mkdir()
        known = [path for path in sorted(self.folder.glob("*")) if path.name.isdigit()] if self._linked else []
        for path in known:
            (cache / path.name).symlink_to(path)
        (cache / _FLAGS).write_text("".join(f"{path.name} 0\n" for path in known), encoding="ascii")

    def collect(self, step: Path) -> str:
        """Keep what was built in `step`. Why its nets cannot be trusted; empty where they can."""
        flags = [line.split() for line in (step / FOLDER / _FLAGS).read_text(encoding="ascii").splitlines()]
        if bad := sorted({code for _, code in flags if code != "0"}):
            return f"the compiler's kernel for attention could not be built (code {bad[0]}): it needs cmake and g++"
        if lost := [name for name, _ in flags if not any((step / FOLDER / name / _LIBRARIES).glob("*.so"))]:
            return f"the compiler's kernel {lost[0]} for attention is gone"
        if _left_out(step):
            return "the compiler left attention out of the net"
        with contextlib.suppress(OSError):  # a full disk, or another build that was faster: they are built anew
            for name, _ in flags:
                self._keep(step / FOLDER / name)
        return ""

    def _keep(self, made: Path) -> None:
        target = self.folder / made.name
        if made.is_symlink() or target.exists() or not (made / _DONE).is_file():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".", dir=self.folder))
        try:
            shutil.copytree(made / _LIBRARIES, part / _LIBRARIES)
            (part / _DONE).touch()
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _left_out(step: Path) -> bool:
    """Whether a net has fused attention and its list of commands, where it has one, none for it."""
    fused = any("tpu.FAttention" in path.read_text(encoding="utf-8") for path in step.glob("*/final.mlir"))
    commands = "".join(p.read_text(encoding="utf-8", errors="replace") for p in step.glob("compiler_profile_*.txt"))
    return fused and "|MM2|" in commands and "FAttention" not in commands
