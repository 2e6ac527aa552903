"""Content digests: of files, remembered as long as they do not change, and of a step and all that it depends on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from contract.folders import write_whole

# Of a checkpoint's folder: weights, configuration, tokenizer, remote code. Not its README, pictures or caches.
_RELEVANT = {".json", ".safetensors", ".bin", ".model", ".txt", ".tiktoken", ".jinja", ".py"}
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_TICK = 20_000_000  # nanoseconds: a file's times advance with the kernel's clock, every 1 to 10 ms


class Digests:
    """SHA-256 of files. A file whose inode, size and times are those of last time is not read again.

    `store`: where the memory lies; unreadable or absent, it starts empty. So it does after a restart of the machine:
    a power cut can leave a file without its content, and with the size and times that it should have.
    """

    def __init__(self, store: Path) -> None:
        self._store, self._boot = store, _boot()
        self._known: dict[str, list[Any]] = {}
        try:
            kept = json.loads(store.read_text(encoding="utf-8"))
            if kept["boot"] == self._boot:
                self._known = {key: list(value) for key, value in kept["files"].items() if len(value) == 4}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass
        self._used: dict[str, list[Any]] = {}

    def file(self, path: Path) -> str:
        """The file's digest. FileNotFoundError where there is none."""
        key, state = stamp(path)
        known = self._remembered(key)
        if known is None or known[:3] != state:
            age = time.time_ns() - state[2]
            if 0 <= age < _TICK:  # a change in the same tick as the last would leave the times as they are
                time.sleep((_TICK - age) / 1e9)
            with path.open("rb") as file:
                known = [*state, _stream(file)]
        self._used[key] = known
        return str(known[3])

    def linked(self, path: Path) -> None:
        """`path` has got a name more or less, from us: that changes a time of the file, and not its content."""
        key, state = stamp(path)
        known = self._remembered(key)
        if known and known[:2] == state[:2]:
            self._used[key] = [*state, known[3]]

    def path(self, path: Path) -> str:
        """Of a file, or of the relevant files in a folder."""
        if not path.is_dir():
            return self.file(path)
        return combine(f"{name} {digest}" for name, digest in self.folder(path).items())

    def folder(self, path: Path) -> dict[str, str]:
        """Of each of the relevant files in a folder, by name: of those below it, code that may be imported."""
        names = {p.name for p in path.iterdir() if p.is_file() and p.suffix in _RELEVANT}
        names |= {str(p.relative_to(path)) for p in path.rglob("*.py")}
        return {name: self.file(path / name) for name in sorted(names)}

    def save(self) -> None:
        """Remember what was asked for since the start, and forget the rest."""
        write_whole(self._store, json.dumps({"boot": self._boot, "files": self._used}))

    def _remembered(self, key: str) -> list[Any] | None:
        return self._used.get(key) or self._known.get(key)


def combine(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def sources(folders: Iterable[Path]) -> str:
    """Of the Python sources in `folders`: what a step does is also what its program says."""
    files = sorted(p for folder in folders for p in folder.glob("*.py"))
    return combine(f"{p.parent.name}/{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files)


def sha256(path: Path) -> str:
    """Of the file as it is now, whatever is remembered."""
    with path.open("rb") as file:
        return _stream(file)


def stamp(path: Path) -> tuple[str, list[int]]:
    """Which file it is, and its size and times: the same as long as nobody changes it."""
    stat = path.stat()
    # ctime changes with every write and cannot be set back, so a file replaced by one of equal size is noticed.
    return f"{stat.st_dev}:{stat.st_ino}", [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _stream(file: Any) -> str:
    total = hashlib.sha256()
    while block := file.read(1 << 22):
        total.update(block)
    return total.hexdigest()
