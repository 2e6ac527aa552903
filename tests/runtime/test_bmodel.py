"""A file made with the flatbuffers library (ours only reads), damaged in every way a file can be."""

import random
import struct
from pathlib import Path

import flatbuffers
import pytest

from contract.errors import UserError
from runtime import bmodel

BINARY = bytes(range(256)) * 40
VOCAB, HIDDEN = 50, 4


def table(b: flatbuffers.Builder, fields: dict[int, tuple[str, object]]) -> int:
    """`fields`: id to (kind, value); kind "ref" for tables, strings and vectors, "bin" for two u64, else a scalar."""
    b.StartObject(max(fields) + 1)
    for slot, (kind, value) in fields.items():
        if kind == "ref":
            b.PrependUOffsetTRelativeSlot(slot, value, 0)
        elif kind == "bin":
            b.Prep(8, 16)
            b.PrependUint64(value[1])
            b.PrependUint64(value[0])
            b.PrependStructSlot(slot, b.Offset(), 0)
        else:
            getattr(b, f"Prepend{kind}Slot")(slot, value, 0)
    return b.EndObject()


def vector(b: flatbuffers.Builder, items: list[int], prepend: str = "UOffsetTRelative", size: int = 4) -> int:
    b.StartVector(size, len(items), size)
    for item in reversed(items):
        getattr(b, f"Prepend{prepend}")(item)
    return b.EndVector()


def tensor_of(
    b: flatbuffers.Builder, name: str, dims: list[int], dtype: int, size: int, hidden: int = 0, index: int = 0
) -> int:
    shape = table(b, {0: ("ref", vector(b, dims, "Uint64", 8))})
    string = b.CreateString(name)
    fields = {0: ("ref", string), 1: ("Uint32", dtype), 4: ("Uint64", size), 5: ("ref", vector(b, [shape]))}
    fields |= {slot: ("Int32", value) for slot, value in ((11, hidden), (12, index)) if value}
    return table(b, fields)


def net(
    b: flatbuffers.Builder, name: str, ins: list[int], outs: list[int], weights: tuple[int, int], cascade: int = 0
) -> int:
    place = table(b, {0: ("ref", b.CreateString("tpu.Gather.source")), 2: ("Uint64", weights[1])})
    coefficients = table(b, {2: ("bin", weights), 3: ("ref", vector(b, [place]))})
    tensors = {0: ("ref", vector(b, ins)), 1: ("ref", vector(b, outs)), 4: ("ref", coefficients)}
    stages = vector(b, [table(b, tensors)])
    string = b.CreateString(name)
    return table(b, {0: ("ref", string), 3: ("ref", stages)} | ({4: ("ref", cascade)} if cascade else {}))


def _describe(chip: str = "BM1684X", logits: bool = True, weights: int = VOCAB * HIDDEN * 2) -> bytes:
    b = flatbuffers.Builder(0)
    ids, hidden = tensor_of(b, "input_ids", [1, 1], 6, 4), tensor_of(b, "out", [1, 1, HIDDEN], 8, HIDDEN * 2)
    out = tensor_of(b, "m_logits", [1, VOCAB], 0, 4 * VOCAB) if logits else tensor_of(b, "token_id", [1, 1], 6, 4)
    nets = [net(b, n, [ids], [o], (64, weights)) for n, o in (("embedding_cache", hidden), ("lm_head", out))]
    return _model(b, nets, chip)


def _model(b: flatbuffers.Builder, nets: list[int], chip: str = "BM1684X") -> bytes:
    words = [b.CreateString(w) for w in ("B", "2.2", "today", chip)]
    fields = {i: ("ref", word) for i, word in enumerate(words)} | {4: ("ref", vector(b, nets)), 7: ("Uint32", 2)}
    b.Finish(table(b, fields))
    return bytes(b.Output())


def file_of(b: flatbuffers.Builder, nets: list[int]) -> bytes:
    """A bmodel for two devices with these nets."""
    return _file(_model(b, nets))


def _file(description: bytes, header_bytes: int = 64) -> bytes:
    return struct.pack("<IIIQ44x", bmodel.MAGIC, header_bytes, len(description), len(BINARY)) + description + BINARY


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.bmodel"
    path.write_bytes(_file(_describe()))
    return path


def test_says_what_the_file_is_for(path: Path) -> None:
    assert bmodel.read(path) == bmodel.Summary("bm1684x", 2, ("embedding_cache", "lm_head"), VOCAB)
    path.write_bytes(_file(_describe("BM1688", logits=False)))
    summary = bmodel.require_chip(path, "bm1688")
    assert (summary.chip, summary.vocab) == ("bm1688", VOCAB)  # counted from the embedding's bytes


def test_another_chips_bmodel_is_refused(path: Path) -> None:
    with pytest.raises(UserError, match="built for bm1684x, not bm1688"):
        bmodel.require_chip(path, "bm1688")


def test_what_is_no_bmodel_is_refused(path: Path, tmp_path: Path) -> None:
    for content in (b"", b"PK", b"\x7fELF" + bytes(200)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a bmodel"):
            bmodel.read(path)
    with pytest.raises(UserError, match="no such file"):
        bmodel.read(tmp_path / "none.bmodel")
    with pytest.raises(UserError, match="is a directory"):
        bmodel.read(tmp_path)


def test_every_truncation_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in [*range(4, 200), *range(200, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="truncated"):
            bmodel.read(path)


def test_weights_outside_the_file_are_refused(path: Path) -> None:
    path.write_bytes(_file(_describe(weights=len(BINARY))))  # begins 64 bytes in
    with pytest.raises(UserError, match="binary_coeff lies outside the file"):
        bmodel.read(path)


def test_a_wrong_header_size_is_refused(path: Path) -> None:
    path.write_bytes(_file(_describe(), header_bytes=60))
    with pytest.raises(UserError, match="header is corrupt"):
        bmodel.read(path)


def test_a_damaged_description_is_refused_or_read_but_never_breaks_the_reader(path: Path) -> None:
    whole, refused = path.read_bytes(), 0
    end = len(whole) - len(BINARY)
    rng = random.Random(0)
    for _ in range(1500):
        damaged = bytearray(whole)
        damaged[rng.randrange(4, end)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            bmodel.read(path)
        except UserError:
            refused += 1
    assert refused > 500  # the rest hit names, sizes and padding, which mislead nobody's pointers


def test_a_net_without_a_stage_is_refused(path: Path) -> None:
    b = flatbuffers.Builder(0)
    stages, name = vector(b, []), b.CreateString("x")
    net = table(b, {0: ("ref", name), 3: ("ref", stages)})
    words = [b.CreateString("w") for _ in range(4)]
    b.Finish(table(b, {i: ("ref", w) for i, w in enumerate(words)} | {4: ("ref", vector(b, [net]))}))
    path.write_bytes(_file(bytes(b.Output())))
    with pytest.raises(UserError, match="x has no parameter"):
        bmodel.read(path)
