"""Writes a flatbuffer of what contract.flatbuffer reads, by the same schema."""

from __future__ import annotations

import struct
from typing import Any

import flatbuffers
from flatbuffers import number_types

from contract.flatbuffer import Reader

_NUMBERS = {
    "u8": number_types.Uint8Flags,
    "i32": number_types.Int32Flags,
    "u32": number_types.Uint32Flags,
    "u64": number_types.Uint64Flags,
    "f32": number_types.Float32Flags,
}


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
