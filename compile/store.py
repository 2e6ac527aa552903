"""Finished steps by their identity, shared by all builds beside each other: a build in another mode takes what it has
in common with one that was made before. Entries are hard links, so they take no room while a build stands.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from compile.digest import Digests
from compile.job import RECORD, Record, read_record

STALE = 3600.0  # seconds after which nobody still works on a half-made entry


Passes = Callable[[str], bool]


def _nothing(output: str) -> bool:
    return False


@dataclass(frozen=True)
class Entry:
    """`size`: bytes of its files. `shared`: whether a build still has them too. `used`: when it was last taken or
    made, seconds since 1970."""

    path: Path
    size: int
    shared: bool
    used: float


class Store:
    """In `folder`, one folder per identity, with the step's outputs and its record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, made: Path, record: Record, digests: Digests, gone: Passes = _nothing) -> None:
        """Remember the step whose outputs lie in `made`; of those that `gone` names, the digests only. What cannot be
        kept (a full disk) is not."""
        target = self.folder / record.identity
        with contextlib.suppress(OSError):
            self.folder.mkdir(exist_ok=True)
            with _beside(target) as part:
                _link(made, part, record, digests, gone)

    def take(self, identity: str, target: Path, digests: Digests, gone: Passes = _nothing) -> Record | None:
        """Put the outputs of that step into `target`, but for those that `gone` names; None where they are not known,
        or not whole."""
        source = self.folder / identity
        record = read_record(source)
        if record is None or record.identity != identity or not whole(source, record, digests, gone):
            return None
        try:
            with _beside(target) as part:
                _link(source, part, record, digests, gone)
                if not whole(part, record, digests, gone):
                    raise OSError("another build has put its own in this place meanwhile")
                os.utime(source)
        except OSError:
            return None
        return record

    def folders(self) -> list[Path]:
        """Of all that is remembered."""
        return [path for path in self.folder.glob("*") if path.suffix != ".part"]

    def sweep(self) -> None:
        """Remove what killed builds left half-made."""
        for part in self.folder.glob("*.part"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > STALE:
                    shutil.rmtree(part, ignore_errors=True)

    def entries(self) -> list[Entry]:
        """The least recently used first."""
        found = [_entry(path) for path in self.folder.glob("*") if path.is_dir()] if self.folder.is_dir() else []
        return sorted((entry for entry in found if entry), key=lambda entry: entry.used)

    def prune(self, limit: int) -> int:
        """Remove entries that no build has any more until the rest takes at most `limit` bytes. Bytes given back."""
        idle = [entry for entry in self.entries() if not entry.shared]
        left, freed = sum(entry.size for entry in idle), 0
        for entry in idle:
            if left - freed <= limit:
                break
            shutil.rmtree(entry.path, ignore_errors=True)
            freed += entry.size
        return freed


def whole(folder: Path, record: Record, digests: Digests, gone: Passes = _nothing) -> bool:
    """Whether every output is what it was, byte for byte, or absent where `gone` says that it may be. Cheap for files
    that nobody touched."""
    for name, (size, digest) in record.outputs.items():
        path = folder / name
        try:
            if gone(name) and not path.exists():
                continue
            if not path.is_file() or path.stat().st_size != size or digests.file(path) != digest:
                return False
        except OSError:  # another build has removed it meanwhile, or it cannot be read
            return False
    return True


def _link(source: Path, target: Path, record: Record, digests: Digests, gone: Passes) -> None:
    for name in record.outputs:
        if gone(name):
            continue
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, path)
            digests.linked(path)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source / name, path)
    (target / RECORD).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder that takes the place of `target` when all is well, and goes when it is not. Nobody finds half of the
    new folder, and no folder only between two renames."""
    work = Path(tempfile.mkdtemp(prefix=f"{target.name[:24]}.", suffix=".part", dir=target.parent))
    part = work / "new"
    try:
        part.mkdir()
        yield part
        with contextlib.suppress(FileNotFoundError):
            target.rename(work / "old")
        part.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _entry(path: Path) -> Entry | None:
    """None where another process has just removed it, or a part of it."""
    try:
        stats = [p.stat() for p in path.rglob("*") if p.is_file() and p.name != RECORD]
        return Entry(path, sum(s.st_size for s in stats), any(s.st_nlink > 1 for s in stats), path.stat().st_mtime)
    except OSError:
        return None
