"""The bmodels that a whole one was made of, taken out of it again.

A whole bmodel is as large as all that it is made of. So that the two need not lie on the disk together, a part goes
piece by piece as it is copied (compile.combine), and an index beside the whole says where its bytes are now: a later
build that combines most of the same parts anew finds them there, and so does a build after one that was cut short.
Whatever is taken out is compared with the digest that it had.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

INDEX = "parts.jsonl"  # beside the whole: its file name, then an entry a line, written before its part is touched
LEAVE = "take"  # a file that stands where the whole is made if its parts may go
RESTORED = ".restored"  # what a part is called until it is whole
CHUNK = 1 << 24  # bytes moved at once, which lie on the disk twice for a moment

Run = tuple[int, int, int]


@dataclass(frozen=True)
class Entry:
    """Where the bytes of a part are. `file`: its path, seen from the whole's folder. `start`: the whole's length before
    this part was added. `runs`: offset in the part, length and offset in the whole, ascending and apart. `rest`: all
    other bytes of the part, one after the other, by zlib and base64."""

    file: str
    size: int
    sha256: str
    start: int
    runs: tuple[Run, ...]
    rest: str

    @classmethod
    def parse(cls, line: str) -> Entry:
        """ValueError, KeyError or TypeError where it is none."""
        data = json.loads(line)
        runs = tuple((int(at), int(length), int(place)) for at, length, place in data.pop("runs"))
        return cls(**data, runs=runs)

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    def pieces(self) -> Iterator[tuple[int, int, int | None]]:
        """All of the part in order: offset, length, and where it is in the whole; None where it is in `rest`."""
        at = 0
        for start, length, place in (*self.runs, (self.size, 0, 0)):
            if start > at:
                yield at, start - at, None
            if length:
                yield start, length, place
            at = start + length


def pack(rest: bytes) -> str:
    return base64.b64encode(zlib.compress(rest)).decode("ascii")


def read(folder: Path) -> tuple[Path, list[Entry]]:
    """The whole in `folder`, and what its index says, up to a line that is cut short. OSError where there is none."""
    whole, entries = folder, list[Entry]()
    with (folder / INDEX).open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            try:
                if number:
                    entries.append(Entry.parse(line))
                else:
                    whole = folder / Path(json.loads(line)).name
            except (ValueError, KeyError, TypeError):
                break
    return whole, entries


def index(folders: Iterable[Path]) -> dict[str, tuple[Entry, Path]]:
    """By its digest each part of the wholes in `folders`, with its whole."""
    found = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            whole, entries = read(folder)
            found.update({entry.sha256: (entry, whole) for entry in entries})
    return found


def taken(folder: Path) -> dict[str, str]:
    """The digests of the parts that go, or have gone, into the whole in `folder`, by path."""
    try:
        return {os.path.normpath(folder / entry.file): entry.sha256 for entry in read(folder)[1]}
    except OSError:
        return {}


def restore(entry: Entry, whole: Path, target: Path) -> bool:
    """Write the part to `target`, whole or not at all, and say which. What stands at `target` is taken for its
    beginning, of which `whole` may lack the bytes."""
    begun = target.stat().st_size if target.exists() else 0
    part = target.with_suffix(RESTORED)
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        rest = zlib.decompress(base64.b64decode(entry.rest))
    except (ValueError, zlib.error):
        return False
    try:
        with part.open("wb") as made:
            for at, length, place in entry.pieces():
                kept = max(0, min(length, begun - at))
                blocks = [_blocks(target, at, kept)] if kept else []
                if place is None:
                    blocks.append(iter([rest[kept:length]]))
                    rest = rest[length:]
                else:
                    blocks.append(_blocks(whole, place + kept, length - kept))
                for block in (block for some in blocks for block in some):
                    digest.update(block)
                    made.write(block)
        if digest.hexdigest() != entry.sha256:
            return False
        os.replace(part, target)
        return True
    except FileNotFoundError:  # a whole of another build, which removes it
        return False
    finally:
        part.unlink(missing_ok=True)


def _blocks(path: Path, at: int, length: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(at)
        while length > 0 and (block := file.read(min(CHUNK, length))):
            length -= len(block)
            yield block


def clear(work: Path) -> None:
    """Remove from the steps' folder what a build that was killed left half-made, and put back what it had taken."""
    for part in work.glob("*.part"):
        undo(part)
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    for part in work.glob(f"*/*{RESTORED}"):
        part.unlink()


def undo(torn: Path) -> None:
    """Put back what a combining in the folder `torn`, which was cut short, had taken of its parts, the last first; the
    whole shrinks as they grow. A part of which bytes were lost goes: it is made again. OSError where the disk is full;
    another try goes on from there."""
    try:
        whole, entries = read(torn)
    except OSError:
        return
    for entry in reversed(entries):
        part = Path(os.path.normpath(torn / entry.file))
        if part.is_file() and part.stat().st_size == entry.size:
            continue
        if not whole.is_file() or not restore(entry, whole, part):
            part.unlink(missing_ok=True)
        elif whole.stat().st_size > entry.start:
            os.truncate(whole, entry.start)
