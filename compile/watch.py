"""How much memory the commands of running steps take as time goes on: they take most of it for a short while only."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

_PERIOD = 0.2  # seconds
SLICES = 16  # of a step's time, at most
Level = tuple[float, int]  # a moment in seconds, and bytes then


class Watch(threading.Thread):
    """While it runs, looks at the process groups that it was told of."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self._groups: dict[int, list[Level]] = {}
        self._lock = threading.Lock()  # of what they were told, and where it is put

    def run(self) -> None:
        while not self._ended.wait(_PERIOD):
            if groups := dict(self._groups):
                now, found = time.monotonic(), _resident()
                with self._lock:  # a group may have ended during the look
                    for group, levels in groups.items():
                        if self._groups.get(group) is levels:
                            levels.append((now, found[group]))

    def stop(self) -> None:
        self._ended.set()

    @contextlib.contextmanager
    def over(self, group: int, levels: list[Level]) -> Iterator[None]:
        """While this lasts, add to `levels` what the processes of `group` have resident together."""
        self._groups[group] = levels
        try:
            yield
        finally:
            with self._lock:
                del self._groups[group]


def _resident() -> Counter[int]:
    """Bytes by process group, with those of groups that its processes began (GNU parallel's jobs)."""
    found, page = Counter[int](), os.sysconf("SC_PAGE_SIZE")
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended
                # Behind the name, which may hold anything: state, parent, group, session, and 17 more before the pages.
                words = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                for leader in {words[2], words[3]}:
                    found[int(leader)] += int(words[21]) * page
    return found


def profile(levels: Sequence[Level], start: float, end: float, most: int) -> list[int]:
    """The largest in each of equal parts of the time from `start` to `end`: at most SLICES, and so few that there are
    two looks for each; none where there was hardly a look. `most`: bytes of the largest process at its peak, which may
    lie between two looks."""
    count = min(SLICES, len(levels) // 2)
    if not count:
        return []
    parts = [0] * count
    for moment, size in levels:
        part = min(count - 1, int(count * (moment - start) / (end - start)))
        parts[part] = max(parts[part], size)
    largest = parts.index(max(parts))
    parts[largest] = max(parts[largest], most)
    return parts
