"""Two bmodels that differ as two runs of the compiler do become one; what is not known is left alone, or refused."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import flatbuffers
import pytest

from compile.names import NORMALISE
from runtime import bmodel
from tests.runtime import test_bmodel as files

MAGIC = 0x0F00FFFF


def layer(length: int, version: int = 1) -> bytes:
    """Type, magic, length, and the bytes themselves."""
    return struct.pack("<III", 31, MAGIC | version << 28, length) + bytes(i % 7 for i in range(length))


def alone(padding: bytes) -> bytes:
    """A record of one layer: two inputs, one output, 16 bytes before what the length counts."""
    head = struct.pack("<IBBBBB3sI", 1 << 16, 255, 2, 1, 0x22, 1, padding, 1)
    return head + bytes(range(12)) + layer(50) + b"\xee" * 16


def group(padding: bytes, split: bool) -> bytes:
    """A record of two time steps, each with a layer and a transfer."""
    head = struct.pack("<IBBBBB3sI", 2 << 16, 255, 1, 1, 0x23 if split else 0x22, 3, padding, 1)
    part = layer(9, version=0)
    timed = struct.pack("<I", 1 << 16 | len(part)) + part
    step = struct.pack("<I", 1) + timed + struct.pack("<I", 1) + timed
    return head + bytes(20 if split else 8) + step * 2


def instructions(padding: bytes) -> bytes:
    """Of a part with one input and one output: 8 bytes, then the number of records."""
    records = [alone(padding), group(padding, False), alone(padding), group(padding, True)]
    return bytes(8) + struct.pack("<I", len(records)) + b"".join(records)


def write(path: Path, when: str, code: bytes) -> Path:
    """A bmodel with one dynamic net whose instructions begin 32 bytes into its binary data."""
    b = flatbuffers.Builder(0)
    tensor = files.tensor_of(b, "x", [1, 1], 6, 4)
    part = {3: ("ref", files.vector(b, [tensor])), 4: ("ref", files.vector(b, [tensor])), 7: ("Uint32", len(code))}
    subnets = files.vector(b, [files.table(b, part)])
    ends = {0: ("ref", files.vector(b, [tensor])), 1: ("ref", files.vector(b, [tensor]))}
    stages = files.vector(b, [files.table(b, {**ends, 11: ("bin", (32, len(code))), 12: ("ref", subnets)})])
    nets = files.vector(b, [files.table(b, {0: ("ref", b.CreateString("net")), 3: ("ref", stages)})])
    words = [b.CreateString(word) for word in ("B", "2.2", when, "BM1684X")]
    b.Finish(files.table(b, {**{i: ("ref", word) for i, word in enumerate(words)}, 4: ("ref", nets)}))
    described, binary = bytes(b.Output()), bytes(range(32)) + code + bytes(range(16))
    path.write_bytes(struct.pack("<IIIQ44x", bmodel.MAGIC, 64, len(described), len(binary)) + described + binary)
    return path


def normalise(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(NORMALISE), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_two_runs_of_the_compiler_become_equal_and_nothing_else_changes(tmp_path: Path) -> None:
    one = write(tmp_path / "one.bmodel", "Fri Nov 20 10:31:38 2026\n", instructions(b"\x9d\x41\x8c"))
    two = write(tmp_path / "two.bmodel", "Mon Nov  2 01:00:00 2026\n", instructions(b"\x01\x02\x03"))
    before = one.read_bytes()
    assert before != two.read_bytes()
    for path in (one, two, two):  # a second time it changes nothing
        done = normalise(path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    after = one.read_bytes()
    assert after == two.read_bytes()
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    assert changed <= 4 * 3 + 25
    assert before.replace(b"\x9d\x41\x8c", bytes(3)).replace(b"Fri Nov 20 10:31:38 2026", after_time(after)) == after
    assert bmodel.read(one).nets == ("net",)


def after_time(data: bytes) -> bytes:
    assert b"Thu Jan  1 00:00:00 1970\n" in data
    return b"Thu Jan  1 00:00:00 1970"


@pytest.mark.parametrize("at", [8, 12 + 16 + 12 + 4, 12 + 4])
def test_instructions_in_another_form_are_left_alone(tmp_path: Path, at: int) -> None:
    """Too many records; a layer without the magic; a record of another version."""
    code = bytearray(instructions(b"abc"))
    code[at] ^= 0x55
    path = write(tmp_path / "a.bmodel", "Fri Nov 20 10:31:38 2026\n", bytes(code))
    done = normalise(path)
    assert done.returncode == 0
    assert "two builds may differ" in done.stdout
    assert bytes(code) in path.read_bytes()
    assert b"1970" in path.read_bytes()


@pytest.mark.parametrize("length", [0, 10, 64, 300, -1])
def test_a_bmodel_cut_short_is_an_error(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "a.bmodel", "Fri Nov 20 10:31:38 2026\n", instructions(b"abc"))
    path.write_bytes(path.read_bytes()[:length])
    done = normalise(path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr


def test_damage_is_never_a_traceback(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bmodel", "Fri Nov 20 10:31:38 2026\n", instructions(b"abc"))
    data = path.read_bytes()
    for at in range(0, 700, 37):
        path.write_bytes(data[:at] + bytes(255 - b for b in data[at : at + 3]) + data[at + 3 :])
        done = normalise(path)
        assert "Traceback" not in done.stderr, at
