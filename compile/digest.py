"""Content digests: of files, remembered as long as they do not change, and of a step and all that it depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Of a checkpoint's folder: weights, configuration, tokenizer, remote code. Not its README, pictures or caches.
_RELEVANT = {".json", ".safetensors", ".bin", ".model", ".txt", ".tiktoken", ".jinja", ".py"}


class Digests:
    """SHA-256 of files. A file whose inode, size and times are those of last time is not read again.

    `store`: where the memory lies; unreadable or absent, it starts empty.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        try:
            self._known: dict[str, list[Any]] = json.loads(store.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}
        self._used: dict[str, list[Any]] = {}

    def file(self, path: Path) -> str:
        """The file's digest. FileNotFoundError where there is none."""
        stat = path.stat()
        # ctime changes with every write and cannot be set back, so a file replaced by one of equal size is noticed.
        key, state = f"{stat.st_dev}:{stat.st_ino}", [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        known = self._used.get(key) or self._known.get(key)
        if known is None or known[:3] != state:
            with path.open("rb") as file:
                known = [*state, _stream(file)]
        self._used[key] = known
        return str(known[3])

    def path(self, path: Path) -> str:
        """Of a file, or of the relevant files that lie directly in a folder."""
        if not path.is_dir():
            return self.file(path)
        names = sorted(p.name for p in path.iterdir() if p.is_file() and p.suffix in _RELEVANT)
        return combine(f"{name} {self.file(path / name)}" for name in names)

    def save(self) -> None:
        """Remember what was asked for since the start, and forget the rest."""
        part = self._store.with_suffix(".part")
        part.write_text(json.dumps(self._used), encoding="utf-8")
        os.replace(part, self._store)


def combine(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def sources(folders: Iterable[Path]) -> str:
    """Of the Python sources in `folders`: what a step does is also what its program says."""
    files = sorted(p for folder in folders for p in folder.glob("*.py"))
    return combine(f"{p.parent.name}/{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files)


def _stream(file: Any) -> str:
    total = hashlib.sha256()
    while block := file.read(1 << 22):
        total.update(block)
    return total.hexdigest()
