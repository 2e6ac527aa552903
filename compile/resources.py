"""What a build has: disk, and what is said when it is full; memory."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from contract.errors import UserError


def full(folder: Path) -> UserError:
    return UserError("the disk is full", str(folder), "make room and build again: it goes on from what is whole")


@contextlib.contextmanager
def room(folder: Path) -> Iterator[None]:
    """A full disk as a UserError, wherever we ourselves meet it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise full(folder) from error


def available_memory() -> int:
    """Bytes that new processes may take without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
