"""Reads a flatbuffer by a schema given as text, checking every offset: no byte of the file is trusted.

The whole tree is walked, also the parts nobody asks for, because the vendor's C library follows them unchecked
and a wrong offset there ends the process. It reads only; it knows nothing of bmodels.
"""

from __future__ import annotations

import struct
from typing import Any

_SCALARS = {"u8": "<B", "i32": "<i", "u32": "<I", "u64": "<Q", "f32": "<f"}


class Corrupt(Exception):
    """The bytes are not a flatbuffer of the schema."""


class Reader:
    """`schema`: one line a table, `Name field:type field:type …` in the order of their ids.

    Types: u8 i32 u32 u64 f32, string, the name of a table or struct, `[…]` for a vector of these, `!` at the end
    for a required field. `structs` gives inline structs as struct formats.
    """

    def __init__(self, schema: str, structs: dict[str, str]) -> None:
        self.tables = {
            line.split()[0]: [tuple(field.split(":")) for field in line.split()[1:]]
            for line in schema.strip().splitlines()
        }
        self.inline = _SCALARS | structs

    def read(self, buffer: bytes, root: str) -> dict[str, Any]:
        """The root table as nested dicts and lists; absent fields are None. Raises Corrupt."""
        table: dict[str, Any] = self._follow(buffer, 0, root)
        return table

    def places(self, b: bytes, root: str, vector: str, field: str) -> list[int]:
        """For each table in `vector` of the root that has `field`: where its vtable says where that lies. Tables may
        share a vtable. For a buffer that read() took."""
        (kind,) = (spec.strip("[]!") for name, spec in self.tables[root] if name == vector)
        start = _get(b, 0, "<I")[0]
        at = start + self._slot(b, start, root, vector)[1]
        tables = at + _get(b, at, "<I")[0]
        (count,) = _get(b, tables, "<I")
        found = []
        for place in range(tables + 4, tables + 4 + 4 * count, 4):
            table = place + _get(b, place, "<I")[0]
            slot, value = self._slot(b, table, kind, field)
            found += [slot] if value else []
        return found

    def _slot(self, b: bytes, table: int, kind: str, field: str) -> tuple[int, int]:
        """Where the vtable of `table` says where `field` lies, and what it says; 0 for nowhere."""
        vtable = table - _get(b, table, "<i")[0]
        place = vtable + 4 + 2 * [name for name, _ in self.tables[kind]].index(field)
        return place, _get(b, place, "<H")[0] if place < vtable + _get(b, vtable, "<H")[0] else 0

    def _follow(self, b: bytes, at: int, kind: str) -> Any:
        """What lies where the 32-bit offset stored at `at` points to."""
        to = at + _get(b, at, "<I")[0]
        if kind.startswith("["):
            return self._vector(b, to, kind[1:-1])
        if kind == "string":
            return _string(b, to)
        return self._table(b, to, kind)

    def _table(self, b: bytes, at: int, kind: str) -> dict[str, Any]:
        vtable = at - _get(b, at, "<i")[0]
        vtable_bytes, table_bytes = _get(b, vtable, "<HH")
        _need(vtable_bytes >= 4 and vtable_bytes % 2 == 0 and at + table_bytes <= len(b), kind)
        slots = _get(b, vtable, f"<{vtable_bytes // 2}H")[2:]
        return {
            field: self._field(b, at, slots[i] if i < len(slots) else 0, table_bytes, spec)
            for i, (field, spec) in enumerate(self.tables[kind])
        }

    def _field(self, b: bytes, table: int, slot: int, table_bytes: int, spec: str) -> Any:
        kind = spec.rstrip("!")
        if slot == 0:
            _need(not spec.endswith("!"), f"no {kind}")
            return None
        _need(slot >= 4 and slot + struct.calcsize(self.inline.get(kind, "<I")) <= table_bytes, kind)
        if kind in self.inline:
            values = _get(b, table + slot, self.inline[kind])
            return values[0] if kind in _SCALARS else values
        return self._follow(b, table + slot, kind)

    def _vector(self, b: bytes, at: int, kind: str) -> list[Any]:
        (count,) = _get(b, at, "<I")
        size = struct.calcsize(self.inline.get(kind, "<I"))
        _need(at + 4 + count * size <= len(b), f"[{kind}]")
        places = range(at + 4, at + 4 + count * size, size)
        if kind in _SCALARS:
            return list(_get(b, at + 4, f"<{count}{self.inline[kind][1]}"))
        if kind in self.inline:
            return [_get(b, place, self.inline[kind]) for place in places]
        return [self._follow(b, place, kind) for place in places]


def _get(b: bytes, at: int, form: str) -> tuple[Any, ...]:
    _need(at >= 0 and at + struct.calcsize(form) <= len(b), "offset")
    return struct.unpack_from(form, b, at)


def _string(b: bytes, at: int) -> str:
    (length,) = _get(b, at, "<I")
    raw = _get(b, at + 4, f"<{length}sB") if at + 5 + length <= len(b) else (b"", 1)
    _need(raw[1] == 0, "string")
    try:
        return bytes(raw[0]).decode()
    except UnicodeDecodeError as error:
        raise Corrupt(str(error)) from error


def _need(true: bool, what: str) -> None:
    if not true:
        raise Corrupt(what)
