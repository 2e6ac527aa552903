"""What a build takes of the machine, seen from outside: `with Disk(folder) as disk`, and then `disk.most`."""

from __future__ import annotations

import os
import re
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

# Seconds. What steps write comes and goes within tenths. To look at the processes as often took 52 s of CPU in 4 min.
_PERIOD, _OF_MEMORY, _SELDOM = 0.05, 0.2, 1.0


class _Peak(threading.Thread):
    """Looks again and again while it lasts. `most`: bytes."""

    def __init__(self, period: float = _PERIOD) -> None:
        super().__init__(daemon=True)
        self._period, self._ended, self.most = period, threading.Event(), 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(self._period):
            self.look()

    @abstractmethod
    def look(self) -> None: ...


class Disk(_Peak):
    """The most bytes that lie under `folder`, and the largest `files` then. A file with several names is one, and what
    was there before is not counted."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self.files = folder, list[tuple[int, str]]()
        self._before = {number for number, _ in self._all(folder)}

    def look(self) -> None:
        files = {number: file for number, file in self._all(self._folder) if number not in self._before}
        if (taken := sum(size for size, _ in files.values())) > self.most:
            self.most, self.files = taken, sorted(files.values(), reverse=True)[:8]

    def _all(self, folder: Path) -> Iterator[tuple[int, tuple[int, str]]]:
        with suppress(FileNotFoundError), os.scandir(folder) as entries:  # what passes between steps goes meanwhile
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        yield from self._all(Path(entry.path))
                    else:
                        found = entry.stat(follow_symlinks=False)
                        yield found.st_ino, (found.st_blocks * 512, os.path.relpath(entry.path, self._folder))


class Memory(_Peak):
    """The most bytes that the processes begun meanwhile by this one, and by those, have resident together; what they
    share counts once, and whole where processes beside them share it too. Of what lasts less than the time between two
    looks it sees nothing. `highest`: each process counts with what it has had at most so far, which any look sees, and
    which is too much where several have their most at different times."""

    def __init__(self, highest: bool = False) -> None:
        super().__init__(_OF_MEMORY)
        self._highest = highest
        self._own = psutil.Process()
        self._before = self._own.children()
        self._looked, self._resident = 0.0, 0  # when all pages were looked through, and how many bytes there were

    def look(self) -> None:
        begun = [one for one in self._own.children() if one not in self._before]
        with suppress(psutil.NoSuchProcess):
            begun += [child for one in begun for child in one.children(recursive=True)]
        resident, now = sum(_resident(one, self._highest) for one in begun), time.monotonic()
        # To look through all pages holds up the processes: only where there may be more of them.
        if resident > self.most and (resident > 1.01 * self._resident or now > self._looked + _SELDOM):
            self._looked, self._resident = now, resident
            self.most = max(self.most, _together(begun, self._highest))


def _resident(process: psutil.Process, highest: bool) -> int:
    with suppress(OSError):  # it has ended
        return _kilobytes(process, "status", "VmHWM" if highest else "VmRSS")
    return 0


def _together(processes: Sequence[psutil.Process], highest: bool) -> int:
    files, rest = dict[str, int](), 0
    for process in processes:
        with suppress(psutil.Error, OSError):
            rest += _kilobytes(process, "smaps_rollup", "Pss_Anon")
            rest += _resident(process, True) - _resident(process, False) if highest else 0
            for mapped in process.memory_maps():
                if mapped.path.startswith("/"):
                    files[mapped.path] = max(files.get(mapped.path, 0), mapped.rss - mapped.anonymous)
    return rest + sum(files.values())


def _kilobytes(process: psutil.Process, file: str, name: str) -> int:
    """A line of what the kernel tells of a process, as bytes."""
    found = re.search(rf"^{name}:\s*(\d+) kB", Path(f"/proc/{process.pid}/{file}").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0
