"""Combines bmodels into one that holds the nets of all, and equal weights and kernels once.

The vendor's `model_tool --combine` does the same and holds all of it in memory, with the parts on the disk until the
whole is written. Here bytes go from file to file, and, where the folder holds a file named as parts.LEAVE, a part goes
as it is copied: from its end, since a file can be made shorter there. What the nets' descriptions say stays as it is,
but for where their binary data lie.

It runs as `python -m compile.combine [--bare] WHOLE PART...` in the whole's folder. Bare, what comes out lacks the
chip's kernels, which the compiler puts into each bmodel: it is for combining only, with one that has them. It needs
neither the compiler nor the vendor's libraries, and knows nothing of what nets are for.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compile import flatwriter, parts
from contract.bmodel import HEADER, MAGIC, READER, Binary
from contract.flatbuffer import Corrupt

ALIGNMENT = 4096  # of the binary block in the file, and of each piece in it, as the compiler has them
# Fields of the whole model: of all parts alike, the largest of all, or whole tables that all parts have. Nets for one
# device (greedy_head) lie beside those that several share.
_ALIKE, _LARGEST = ("type", "version", "chip", "bmodel_type"), ("neuron_size", "device_num")
_MODULES = ("kernel_module", "cpuop_module")


class Unfit(Exception):
    """Files that do not make one bmodel, and why."""


@dataclass
class Part:
    """`model`: its description. `base`: where its binary data begin in the file. `extents`: these by start and length,
    apart from each other, each with its SHA-256 and its place in the whole's binary data."""

    path: Path
    model: dict[str, Any]
    base: int
    extents: dict[Binary, tuple[bytes, int]] = field(default_factory=dict)

    def placed(self, binary: Binary) -> Binary:
        """Where a binary of the part lies in the whole."""
        start, size = binary
        for (begin, length), (_, place) in self.extents.items():
            if size and begin <= start and start + size <= begin + length:
                return place + start - begin, size
        return 0, 0

    def runs(self, base: int) -> tuple[parts.Run, ...]:
        """As compile.parts has them, in a whole whose binary data begin at `base`."""
        found = ((self.base + at, length, base + place) for (at, length), (_, place) in self.extents.items())
        return tuple(found)


def combine(paths: Sequence[Path], out: Path, take: bool = False, bare: bool = False) -> None:
    """Write `out`, and its index beside it. `take`: remove the parts. `bare`: without kernels, and without an index.
    Unfit where they are no parts of one model."""
    found = [_part(path, bare) for path in paths]
    size = _place(found)
    description = flatwriter.write(READER, _merged(found), "Model")
    description += bytes(-(HEADER.size + len(description)) % ALIGNMENT)
    base, copied = HEADER.size + len(description), set[int]()
    index = os.devnull if bare else out.parent / parts.INDEX
    with out.open("wb") as whole, open(index, "w", encoding="utf-8") as lines:
        whole.write(HEADER.pack(MAGIC, HEADER.size, len(description), size) + description)
        whole.flush()
        lines.write(json.dumps(out.name) + "\n")
        for part in found:
            runs = part.runs(base)
            if not bare:
                lines.write(_entry(part.path, runs, out.parent, whole.seek(0, os.SEEK_END)).line())
                lines.flush()
            _move(part.path, runs, whole.fileno(), copied, take)
        whole.truncate(base + size)


def _part(path: Path, bare: bool) -> Part:
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        try:
            magic, header, described, size = HEADER.unpack(head)
            if magic != MAGIC or header != HEADER.size or os.fstat(file.fileno()).st_size != header + described + size:
                raise Unfit(f"{path}: it is no bmodel, or cut short")
            model = READER.read(file.read(described), "Model")
        except (struct.error, Corrupt) as error:
            raise Unfit(f"{path}: its description is corrupt ({error})") from error
    part = Part(path, {**model, **dict.fromkeys(_MODULES if bare else ())}, header + described)
    spans = sorted(binary for binary in _binaries(part.model) if binary[1])
    # The compiler writes the digest of weights beside them; all else is small.
    codes = {c["binary_coeff"]: bytes(c["check_code"] or ()) for c in _coefficients(model)}
    for extent in _union(spans):
        if sum(extent) > size:
            raise Unfit(f"{path}: a binary lies outside the file")
        part.extents[extent] = codes.get(extent) or _digest(part, extent), 0
    return part


def _binaries(node: Any) -> set[Binary]:
    if isinstance(node, dict):
        return set().union(*map(_binaries, node.values())) if node else set()
    if isinstance(node, list):
        return set().union(*map(_binaries, node)) if node else set()
    return {node} if isinstance(node, tuple) and len(node) == 2 else set()


def _coefficients(model: dict[str, Any]) -> list[dict[str, Any]]:
    return [stage["coeff_mem"] for net in model["net"] for stage in net["parameter"] or () if stage["coeff_mem"]]


def _union(spans: Sequence[Binary]) -> list[Binary]:
    """Spans in ascending order, those that overlap made one."""
    made: list[Binary] = []
    for start, size in spans:
        if made and start < sum(made[-1]):
            begin, length = made[-1]
            made[-1] = begin, max(length, start + size - begin)
        else:
            made.append((start, size))
    return made


def _digest(part: Part, extent: Binary) -> bytes:
    with part.path.open("rb") as file:
        file.seek(part.base + extent[0])
        return hashlib.sha256(file.read(extent[1])).digest()


def _place(found: Sequence[Part]) -> int:
    """Give each extent its place, the same to equal ones. Bytes of them all."""
    places: dict[bytes, int] = {}
    end = 0
    for part in found:
        for extent, (digest, _) in part.extents.items():
            if digest not in places:
                places[digest] = end
                end += extent[1] + -extent[1] % ALIGNMENT
            part.extents[extent] = digest, places[digest]
    return end


def _merged(found: Sequence[Part]) -> dict[str, Any]:
    first = found[0].model
    for part in found[1:]:
        for name in _ALIKE:
            if part.model[name] != first[name]:
                raise Unfit(f"{part.path}: {name} is {part.model[name]}, and {first[name]} in {found[0].path}")
    nets = [_moved(net, part.placed) for part in found for net in part.model["net"]]
    names = [net["name"] for net in nets]
    if twice := {name for name in names if names.count(name) > 1}:
        raise Unfit(f"several parts hold {min(twice)}")
    root: dict[str, Any] = {**_moved({k: v for k, v in first.items() if k != "net"}, found[0].placed), "net": nets}
    for name in _LARGEST:
        root[name] = max(part.model[name] or 0 for part in found)
    for name in _MODULES:
        holders = [part for part in found if part.model[name]]
        modules = [_moved(part.model[name], part.placed) for part in holders]
        if any(module != modules[0] for module in modules):
            raise Unfit(f"{name} is not the same in all parts")
        root[name] = modules[0] if modules else None
    return root


def _moved(node: Any, placed: Callable[[Binary], Binary]) -> Any:
    if isinstance(node, dict):
        return {name: _moved(value, placed) for name, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, placed) for value in node]
    return placed(node) if isinstance(node, tuple) and len(node) == 2 else node


def _entry(path: Path, runs: tuple[parts.Run, ...], folder: Path, start: int) -> parts.Entry:
    """Of the part in a whole in `folder`, to whose end, `start`, it is added."""
    size, digest, rest = path.stat().st_size, hashlib.sha256(), bytearray()
    entry = parts.Entry(os.path.relpath(path, folder), size, "", start, runs, "")
    with path.open("rb") as source:
        for _, length, place in entry.pieces():
            while length:
                block = source.read(min(parts.CHUNK, length))
                if not block:
                    raise Unfit(f"{path}: it became shorter")
                digest.update(block)
                length -= len(block)
                if place is None:
                    rest += block
    return replace(entry, sha256=digest.hexdigest(), rest=parts.pack(bytes(rest)))


def _move(path: Path, runs: tuple[parts.Run, ...], whole: int, copied: set[int], take: bool) -> None:
    """Copy to the file `whole` what is not `copied` yet, from the end of the part on; what is there may go. Of a file
    with other names only this one goes."""
    with path.open("r+b" if take else "rb") as part:
        shrink = take and os.fstat(part.fileno()).st_nlink == 1
        for at, length, place in reversed(runs):
            fresh = place not in copied
            copied.add(place)
            for begin in reversed(range(0, length, parts.CHUNK)):
                if fresh:
                    _write(whole, os.pread(part.fileno(), min(parts.CHUNK, length - begin), at + begin), place + begin)
                if shrink:
                    part.truncate(at + begin)
    if take:
        path.unlink()


def _write(file: int, block: bytes, place: int) -> None:
    while block:
        count = os.pwrite(file, block, place)
        block, place = block[count:], place + count


def main(argv: Sequence[str]) -> int:
    """[--bare] WHOLE PART..."""
    bare = argv[:1] == ["--bare"]
    out, *paths = map(Path, argv[bare:])
    try:
        combine(paths, out, (out.parent / parts.LEAVE).exists(), bare)
    except Unfit as error:
        raise SystemExit(str(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
