"""`cache`: what is kept for later builds, how large it is, and how it gets smaller.

Two things are kept: finished steps, beside the builds that share them, and checkpoints that were fetched and converted.
Checkpoints of the Hugging Face hub lie in the hub's own cache, which `hf cache` looks after.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contract.errors import UserError

VARIABLE, USUAL = "HF2BMODEL_CACHE_LIMIT", "20G"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Kept:
    """`kind`: step or checkpoint. `idle`: no build has it any more, so that removing it gives `size` bytes back.
    `used`: when it was last taken or made, seconds since 1970."""

    path: str
    kind: str
    size: int
    idle: bool
    used: float


def add_parsers(subparsers: Any) -> None:
    """Registers the command; it sets `run`, a function of the parsed arguments that gives the exit code."""
    cache = subparsers.add_parser("cache", help="what is kept for later builds: show it, make it smaller")
    cache.add_argument("--out", type=Path, default=Path("out"), help="where the builds are (default: out)")
    cache.add_argument("--size", action="store_true", help="print the bytes that removing all of it would give back")
    cache.add_argument("--prune", action="store_true", help="remove the steps that no build has any more")
    cache.add_argument("--limit", help="with --prune: leave at most so much, as in 10G; checkpoints go last")
    cache.add_argument("--json", action="store_true", help="print what is kept as JSON")
    cache.set_defaults(run=_cache)


def parse(text: str, where: str) -> int:
    """Bytes, from a number with a unit: 500M, 10G. UserError for other text."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip().upper())
    if not found:
        raise UserError(f'"{text}" is no size', where, "give one such as 500M or 10G")
    return int(float(found[1]) * _UNITS[found[2]])


def limit() -> int:
    """What steps that no build has any more may take after a build."""
    return parse(os.environ.get(VARIABLE) or USUAL, VARIABLE)


def kept(out: Path) -> list[Kept]:
    """In the order in which it would be removed: idle steps before checkpoints, the least recently used first."""
    from compile.plan import STORE
    from compile.store import Store
    from exporters.sources import cache_folder

    steps = [Kept(str(e.path), "step", e.size, not e.shared, e.used) for e in Store(out / STORE).entries()]
    models = [_model(path) for path in cache_folder().glob("*") if path.is_dir()] if cache_folder().is_dir() else []
    return [*steps, *sorted(models, key=lambda one: one.used)]


def _model(path: Path) -> Kept:
    stats = [file.stat() for file in path.rglob("*") if file.is_file()]
    used = max((max(s.st_atime, s.st_mtime) for s in stats), default=0.0)
    return Kept(str(path), "checkpoint", sum(s.st_size for s in stats), True, used)


def prune(found: list[Kept], most: int | None) -> list[Kept]:
    """Remove idle steps, all where `most` is None; else the first of `found` until the idle rest takes at most `most`
    bytes. What was removed. Half-made things of killed builds go once they are an hour old."""
    from compile.store import STALE

    idle = [one for one in found if one.idle]
    left, gone = sum(one.size for one in idle), []
    for one in idle:
        half_made = Path(one.path).name.startswith(".part-") or one.path.endswith(".part")
        stale = half_made and time.time() - one.used > STALE
        wanted = (one.kind == "step" if most is None else left > most) and not half_made
        if stale or wanted:
            with contextlib.suppress(OSError):
                shutil.rmtree(one.path)
                left -= one.size
                gone.append(one)
    return gone


def _cache(args: argparse.Namespace) -> int:
    if args.limit is not None and not args.prune:
        raise UserError("says how far to prune, and nothing is pruned", "--limit", "give --prune as well")
    most = None if args.limit is None else parse(args.limit, "--limit")
    found = kept(args.out)
    gone = prune(found, most) if args.prune else []
    found = [one for one in found if one not in gone]
    if args.json:
        print(json.dumps({"kept": [asdict(one) for one in found], "removed": [asdict(one) for one in gone]}, indent=1))
    elif args.size:
        print(sum(one.size for one in found if one.idle))
    else:
        _print(found, gone, args.out)
    return 0


def _print(found: list[Kept], gone: list[Kept], out: Path) -> None:
    if gone:
        print(f"removed {len(gone)}: {_words(sum(one.size for one in gone))}")
    steps = [one for one in found if one.kind == "step"]
    total, idle = (_words(sum(one.size for one in part)) for part in (steps, [one for one in steps if one.idle]))
    print(f"{len(steps)} finished steps of the builds in {out}: {total}, {idle} of it in no build any more")
    for one in found:
        if one.kind == "checkpoint":
            print(f"checkpoint {one.path}: {_words(one.size)}")


def _words(size: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
