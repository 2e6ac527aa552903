"""Combines bmodels into one that holds the nets of all, and equal weights and kernels once.

The vendor's `model_tool --combine` does the same and holds all of it in memory, with the parts on the disk until the
whole is written. Here bytes go from file to file, and, where the folder holds a file named as parts.LEAVE, a part goes
as it is copied: from its end, since a file can be made shorter there. What the nets' descriptions say stays as it is,
but for where their binary data lie.

It runs as `python -m compile.combine WHOLE PART...` in the whole's folder. It needs neither the compiler nor the
vendor's libraries, and knows nothing of what nets are for.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
from flatbuffers import number_types

from compile import parts
from contract.bmodel import HEADER, MAGIC, READER, Binary
from contract.flatbuffer import Corrupt, Reader

ALIGNMENT = 4096  # of the binary block in the file, and of each piece in it, as the compiler has them
_NUMBERS = {
    "u8": number_types.Uint8Flags,
    "i32": number_types.Int32Flags,
    "u32": number_types.Uint32Flags,
    "u64": number_types.Uint64Flags,
    "f32": number_types.Float32Flags,
}
# Fields of the whole model: of all parts alike, the largest of all, or whole tables that all parts have.
_ALIKE, _LARGEST = ("type", "version", "chip", "device_num", "bmodel_type"), ("neuron_size",)
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


def combine(paths: Sequence[Path], out: Path, take: bool) -> None:
    """Write `out`, and its index beside it. `take`: remove the parts. Unfit where they are no parts of one model."""
    found = [_part(path) for path in paths]
    size = _place(found)
    description = write(READER, _merged(found), "Model")
    description += bytes(-(HEADER.size + len(description)) % ALIGNMENT)
    base, copied = HEADER.size + len(description), set[int]()
    with out.open("wb") as whole, (out.parent / parts.INDEX).open("w", encoding="utf-8") as index:
        whole.write(HEADER.pack(MAGIC, HEADER.size, len(description), size) + description)
        whole.flush()
        index.write(json.dumps(out.name) + "\n")
        for part in found:
            entry = _entry(part, base, os.path.relpath(part.path, out.parent), whole.seek(0, os.SEEK_END))
            index.write(entry.line())
            index.flush()
            _move(part.path, entry, whole.fileno(), copied, take)
        whole.truncate(base + size)


def _part(path: Path) -> Part:
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        try:
            magic, header, described, size = HEADER.unpack(head)
            if magic != MAGIC or header != HEADER.size or os.fstat(file.fileno()).st_size != header + described + size:
                raise Unfit(f"{path}: it is no bmodel, or cut short")
            model = READER.read(file.read(described), "Model")
        except (struct.error, Corrupt) as error:
            raise Unfit(f"{path}: its description is corrupt ({error})") from error
    part = Part(path, model, header + described)
    spans = sorted(binary for binary in _binaries(model) if binary[1])
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


def _entry(part: Part, base: int, file: str, start: int) -> parts.Entry:
    """Of the part in the whole whose binary data begin at `base`."""
    runs = tuple((part.base + at, length, base + place) for (at, length), (_, place) in part.extents.items())
    size, digest, rest = part.path.stat().st_size, hashlib.sha256(), bytearray()
    whole = parts.Entry(file, size, "", start, runs, "")
    with part.path.open("rb") as source:
        for _, length, place in whole.pieces():
            while length:
                block = source.read(min(parts.CHUNK, length))
                if not block:
                    raise Unfit(f"{part.path}: it became shorter")
                digest.update(block)
                length -= len(block)
                if place is None:
                    rest += block
    return parts.Entry(file, size, digest.hexdigest(), start, runs, parts.pack(bytes(rest)))


def _move(path: Path, entry: parts.Entry, whole: int, copied: set[int], take: bool) -> None:
    """Copy to the file `whole` what is not `copied` yet, from the end of the part on; what is there may go. Of a file
    with other names only this one goes."""
    with path.open("r+b" if take else "rb") as part:
        shrink = take and os.fstat(part.fileno()).st_nlink == 1
        for at, length, place in reversed(entry.runs):
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


def write(schema: Reader, tree: dict[str, Any], root: str) -> bytes:
    """A flatbuffer of `tree`, as the reader of the schema gives it."""
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(_table(builder, schema, tree, root))
    return bytes(builder.Output())


def _table(builder: Any, schema: Reader, node: dict[str, Any], kind: str) -> int:
    fields = [(slot, spec.rstrip("!"), node[name]) for slot, (name, spec) in enumerate(schema.tables[kind])]
    given = [(slot, spec, value) for slot, spec, value in fields if value is not None and value != []]
    # What a table points to must lie before it.
    places = {slot: _child(builder, schema, v, spec) for slot, spec, v in given if spec not in schema.inline}
    builder.StartObject(len(fields))
    for slot, spec, value in given:
        if spec in _NUMBERS:
            builder.PrependSlot(_NUMBERS[spec], slot, value, None)
        elif spec in schema.inline:
            builder.PrependStructSlot(slot, _struct(builder, schema.inline[spec], value), 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, places[slot], 0)
    return int(builder.EndObject())


def _child(builder: Any, schema: Reader, value: Any, spec: str) -> int:
    if not spec.startswith("["):
        return int(builder.CreateString(value)) if spec == "string" else _table(builder, schema, value, spec)
    kind = spec[1:-1]
    if kind in schema.inline:
        form = schema.inline[kind]
        size = struct.calcsize(form)
        builder.StartVector(size, len(value), min(8, struct.calcsize(f"<{form[-1]}")))
        for item in reversed(value):
            _inline(builder, form, item if isinstance(item, tuple) else (item,))
        return int(builder.EndVector())
    places = [_child(builder, schema, item, kind) for item in value]
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return int(builder.EndVector())


def _struct(builder: Any, form: str, values: tuple[int, ...]) -> int:
    builder.Prep(struct.calcsize(f"<{form[-1]}"), struct.calcsize(form))
    _inline(builder, form, values)
    return int(builder.Offset())


def _inline(builder: Any, form: str, values: tuple[int, ...]) -> None:
    raw = struct.pack(form, *values)
    builder.head -= len(raw)
    builder.Bytes[builder.head : builder.head + len(raw)] = raw


def main(argv: Sequence[str]) -> int:
    """WHOLE PART..."""
    out, *paths = map(Path, argv)
    try:
        combine(paths, out, (out.parent / parts.LEAVE).exists())
    except Unfit as error:
        raise SystemExit(str(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
