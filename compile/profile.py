"""What the compiler says of a net that it made: cycles from its profile, which need no board and are reproducible.

Two builds of one graph give the same count. It counts what runs statically; a part that decides its work at run time
(TopK, and so the whole of greedy_head and sample_head) has no count.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

_TOTAL = re.compile(r"^TCYC : (\d+)", re.MULTILINE)
_PART = re.compile(r"^ *module @(\S+) attributes|run_mode TPU_(STATIC|DYNAMIC)", re.MULTILINE)


def cycles(folder: Path, devices: int) -> int | None:
    """Cycles of one run of the net that the step in `folder` made; None where nothing is counted.

    A net for several devices is cut into stages; the devices of a stage work at once, and a stage starts when the
    one before it has ended on all of them. So a stage takes as long as its slowest device. Cores of a chip write a
    file each, which agree on the total.
    """
    totals = [_totals(path) for path in sorted(folder.glob("compiler_profile_*.txt"))]
    counts = max(totals, key=sum, default=[])
    if not counts:
        return None
    parts = [place for place, counted in _parts(folder) if counted]
    if len(counts) != len(parts):  # every device repeats the whole net, and is listed
        return sum(counts) // devices
    stages: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for (stage, device), count in zip(parts, counts, strict=True):
        stages[stage][device] += count
    return sum(max(stage.values()) for stage in stages.values())


def uncounted(folder: Path) -> int:
    """How many parts of a net decide their work at run time, and so are left out of its cycles."""
    return sum(not counted for _, counted in _parts(folder))


def _totals(profile: Path) -> list[int]:
    return [int(count) for count in _TOTAL.findall(profile.read_text(encoding="utf-8", errors="replace"))]


def _parts(folder: Path) -> list[tuple[tuple[int, int], bool]]:
    """Stage, device and whether it is counted, of every part of a net, in the profile's order.

    The module of a net cut for several devices is called <net>_<stage>_<device>.
    """
    net = folder.name
    place, parts = (0, 0), []
    for module, mode in _PART.findall((folder / net / "final.mlir").read_text(encoding="utf-8")):
        if mode:
            parts.append((place, mode == "STATIC"))
        else:
            cut = re.fullmatch(rf"{re.escape(net)}_(\d+)_(\d+)", module)
            place = (int(cut[1]), int(cut[2])) if cut else (0, 0)
    return parts
