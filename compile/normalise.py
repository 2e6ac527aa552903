"""Takes out of a bmodel what differs between two runs of the compiler on the same input. In place.

That is the time of its creation, and three bytes in each record of a dynamic net's instructions: the padding of a
struct (fw_timestep_base_info_t in tpu-mlir's DynCompileCommon.hpp, from its ninth byte), which the code generator
copies from its stack as it stands. Nobody reads either; all other bytes are left alone.

Instructions that are not written as known here are left alone as well, with a note; the bmodel is right, but two builds
may differ in it. A bmodel that is cut short, as by a full disk, is an error: the compiler does not look.

It runs as a script in the compiler's environment (`python3 -I normalise.py BMODEL`): standard library only.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Iterator

MAGIC = 0xFF55AAEE
TIME = b"Thu Jan  1 00:00:00 1970\n"  # as ctime() writes it, always as long
_HEADER = struct.Struct("<IIIQ44x")  # magic, bytes of header, description and binary data
# Fields of the vendor's bmodel.fbs by their numbers.
_MODEL_TIME, _MODEL_NETS, _NET_STAGES = 2, 4, 3
_STAGE_IR, _STAGE_SUBNETS = 11, 12
_SUBNET_INPUTS, _SUBNET_OUTPUTS, _SUBNET_IR_OFFSET, _SUBNET_IR_LENGTH = 3, 4, 6, 7
# A record's fixed part: time steps in the upper half of the first word, then bytes that are 255 in this version of the
# format, inputs, outputs, flags, pipeline stages, the padding, and one more word.
_RECORD, _PADDING = struct.Struct("<IBBBBB3xI"), slice(9, 12)
_LAYER, _LAYER_MAGIC = struct.Struct("<III"), 0x0F00FFFF  # type, magic with a version in its highest bits, length


class Unknown(Exception):
    """The bytes are not what is known here."""


class Description:
    """The flatbuffer that describes the nets: where its fields lie. Positions are those of the whole file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data

    def number(self, at: int) -> int:
        return int(struct.unpack_from("<I", self._data, at)[0])

    def field(self, table: int, number: int) -> int:
        """Where a field of `table` lies; 0 where it is absent."""
        vtable = table - struct.unpack_from("<i", self._data, table)[0]
        (length,) = struct.unpack_from("<H", self._data, vtable)
        if 4 + 2 * number >= length:
            return 0
        (slot,) = struct.unpack_from("<H", self._data, vtable + 4 + 2 * number)
        return table + slot if slot else 0

    def follow(self, at: int) -> int:
        return at + self.number(at)

    def tables(self, table: int, number: int) -> list[int]:
        """The tables of a field that is a vector of them."""
        at = self.field(table, number)
        if not at:
            return []
        vector = self.follow(at)
        return [self.follow(vector + 4 + 4 * i) for i in range(self.number(vector))]


def normalise(data: mmap.mmap) -> str:
    """Change the file that `data` maps. Why a part of it was left as it is, or empty. Unknown: it is no bmodel, or cut
    short."""
    if len(data) < _HEADER.size:
        raise Unknown(f"{len(data)} bytes are no bmodel")
    magic, header, described, binary = _HEADER.unpack_from(data)
    if magic != MAGIC or header != _HEADER.size:
        raise Unknown("it does not begin as a bmodel does")
    if len(data) != header + described + binary:
        raise Unknown(f"cut short or too long: {len(data)} bytes, where {header + described + binary} are announced")
    nets = Description(data)
    try:
        model = nets.follow(header)
        time = nets.follow(nets.field(model, _MODEL_TIME))
        if nets.number(time) != len(TIME):
            raise Unknown("its time of creation is none")
        data[time + 4 : time + 4 + len(TIME)] = TIME
        ranges = [part for net in nets.tables(model, _MODEL_NETS) for part in _instructions(nets, net)]
    except struct.error as error:
        raise Unknown(f"its description is corrupt ({error})") from error
    for start, length, tensors in ranges:
        part = memoryview(data)[header + described + start :][:length]
        try:
            places = list(_records(part, tensors))
        except (Unknown, struct.error) as error:
            part.release()
            return f"instructions of a dynamic net are not in the form known here ({error})"
        for place in places:
            part[place + _PADDING.start : place + _PADDING.stop] = bytes(3)
        part.release()
    return ""


def _instructions(nets: Description, net: int) -> Iterator[tuple[int, int, int]]:
    """Of each dynamic part of a net: where its instructions lie in the binary data, their length, and how many inputs
    and outputs the part has."""
    for stage in nets.tables(net, _NET_STAGES):
        place = nets.field(stage, _STAGE_IR)
        for subnet in nets.tables(stage, _STAGE_SUBNETS) if place else ():
            words = [nets.field(subnet, number) for number in (_SUBNET_IR_OFFSET, _SUBNET_IR_LENGTH)]
            offset, length = (nets.number(at) if at else 0 for at in words)
            tensors = len(nets.tables(subnet, _SUBNET_INPUTS)) + len(nets.tables(subnet, _SUBNET_OUTPUTS))
            if length:
                yield nets.number(place) + offset, length, tensors


def _records(part: memoryview, tensors: int) -> Iterator[int]:
    """Where each record begins. Unknown where they do not fill `part` exactly, each as it should be."""
    at = 4 * tensors
    (count,) = struct.unpack_from("<I", part, at)
    at += 4
    for _ in range(count):
        steps, fixed, inputs, outputs, flags, _, _ = _RECORD.unpack_from(part, at)
        if steps & 0xFFFF or not steps or fixed != 255 or flags & 0x22 != 0x22:
            raise Unknown(f"record at {at}")
        yield at
        at += _RECORD.size
        at += (16 if steps >> 16 > 1 and flags & 1 else 4) * inputs + 4 * outputs
        at = _group(part, at, steps >> 16) if steps >> 16 > 1 else _layer(part, at) + 16
    if at != len(part):
        raise Unknown(f"{at} bytes of {len(part)}")


def _layer(part: memoryview, at: int) -> int:
    """Where a layer's bytes end, but for those that a layer outside of groups has in addition."""
    _, magic, length = _LAYER.unpack_from(part, at)
    if magic & 0x0FFFFFFF != _LAYER_MAGIC:
        raise Unknown(f"layer at {at}")
    return at + _LAYER.size + int(length)


def _group(part: memoryview, at: int, steps: int) -> int:
    """Where the layers and transfers of a group end: each has its length in the lower half of its first word."""
    for _ in range(2 * steps):  # of each step its layers, then its transfers
        (count,) = struct.unpack_from("<I", part, at)
        at += 4
        for _ in range(count):
            (size,) = struct.unpack_from("<I", part, at)
            if struct.unpack_from("<I", part, at + 8)[0] & 0x0FFFFFFF != _LAYER_MAGIC:
                raise Unknown(f"group at {at}")
            at += 4 + (size & 0xFFFF)
    return at


def main(argv: list[str]) -> int:
    """BMODEL"""
    (path,) = argv
    with open(path, "r+b") as file:
        if not os.fstat(file.fileno()).st_size:
            raise SystemExit(f"{path}: it is empty")
        with mmap.mmap(file.fileno(), 0) as data:
            try:
                left = normalise(data)
            except Unknown as error:
                raise SystemExit(f"{path}: {error}") from error
    if left:
        print(f"{path}: two builds may differ: {left}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
