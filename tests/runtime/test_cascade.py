"""Split nets: what the file says of their parts, and in which order and on which memory they run."""

from __future__ import annotations

import ctypes as C
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

from contract import graphs
from contract.errors import UserError
from contract.graphs import TensorSpec
from runtime import bmodel
from runtime.bmrt import DeviceMem, Tensor, tensor
from runtime.cascade import Cascade, cascades, parts_alone
from runtime.nets import described, joined, parts
from tests.runtime.test_bmodel import file_of, net, table, tensor_of

BOTH = (0, 1)
WEIGHTS = {("m", 0, 0): (64, 512), ("m", 0, 1): (1024, 512), ("m", 1, 0): (64, 512), ("m", 1, 1): (64, 512)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """`m`: each of two devices makes a half, then adds the other's to its own; and `n`, which is not split."""
    b = flatbuffers.Builder(0)

    def part(step: int, device: int, ins: list[int], outs: list[int]) -> int:
        fields: dict[int, tuple[str, object]] = {2: ("ref", b.CreateString("m"))}
        fields |= {0: ("Uint32", device)} if device else {}
        fields |= {1: ("Uint32", step)} if step else {}
        cascade = table(b, fields)
        return net(b, f"m_{step}_{device}", ins, outs, WEIGHTS["m", step, device], cascade)

    def ends(device: int, other: int) -> tuple[int, int]:
        first = part(0, device, [tensor_of(b, "x", [1, 4], 8, 8, 1)], [tensor_of(b, f"half_{device}", [1, 4], 8, 8)])
        halves = [tensor_of(b, f"half_{d}", [1, 4], 8, 8) for d in (device, other)]
        return first, part(1, device, halves, [tensor_of(b, f"sum_{device}", [1, 4], 8, 8, 4)])

    (first, third), (second, fourth) = ends(0, 1), ends(1, 0)
    lone = net(b, "n", [tensor_of(b, "x", [1], 0, 4, 1)], [tensor_of(b, "y", [1], 0, 4, 2)], (64, 512))
    path = tmp_path / "split.bmodel"
    path.write_bytes(file_of(b, [first, second, third, fourth, lone]))
    return path


def test_the_file_says_who_does_what(path: Path) -> None:
    half = TensorSpec("half_0", (1, 4), "bfloat16")
    assert [(p.name, p.net, p.step, p.device) for p in bmodel.parts(path)] == [
        *(("m_0_0", "m", 0, 0), ("m_0_1", "m", 0, 1), ("m_1_0", "m", 1, 0), ("m_1_1", "m", 1, 1)),
    ]
    assert bmodel.parts(path)[0].outputs == (bmodel.Slot(half, True, 0),)
    assert bmodel.weight_bytes(path) == [512, 1024]  # the same bytes count once a device
    found = cascades(path)["m"]
    assert [(device, slot.tensor.name) for device, slot in found.inputs] == [(0, "x"), (1, "x")]
    assert [(device, slot.tensor.name) for device, slot in found.outputs] == [(0, "sum_0"), (1, "sum_1")]


def test_parts_alone_differ_in_nothing_else(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    with parts_alone(path) as data:
        (alone := tmp_path / "alone.bmodel").write_bytes(data)
    assert path.read_bytes() == before
    assert bmodel.parts(alone) == []
    assert bmodel.read(alone) == replace(bmodel.read(path), nets=bmodel.read(alone).nets)
    assert len(alone.read_bytes()) == len(before)


def _memory(address: int) -> DeviceMem:
    return DeviceMem(address, 0, 0, 0, 8)


def _array(*addresses: int) -> Any:
    return (Tensor * len(addresses))(*(tensor(_memory(a), "bfloat16", (1, 4)) for a in addresses))


def test_each_part_reads_its_own_devices_memory_or_the_others(path: Path) -> None:
    cascade: Cascade = cascades(path)["m"]
    memory = {(0, "half_0"): _memory(30), (1, "half_1"): _memory(31)}
    launched = []

    def launch(name: str, ins: Any, outs: Any) -> None:
        launched.append((name, [t.mem.addr for t in ins], [t.mem.addr for t in outs]))
        for t in outs:
            t.shape.dims[1] = 3  # as a dynamic part may

    outputs = _array(20, 21)
    cascade.run(launch, _array(10, 11), outputs, memory)
    assert launched == [
        *(("m_0_0", [10], [30]), ("m_0_1", [11], [31])),
        *(("m_1_0", [30, 31], [20]), ("m_1_1", [31, 30], [21])),
    ]
    assert [t.shape.as_tuple() for t in outputs] == [(1, 3), (1, 3)]
    assert C.sizeof(outputs) == 2 * C.sizeof(Tensor)


GEOMETRY = graphs.Geometry(1, hidden=8, kv_heads=2, head_dim=4, v_head_dim=4, vocab=9, seq_length=16)


def test_a_device_has_its_share_of_the_heads() -> None:
    whole, share = graphs.block_cache(GEOMETRY, 0), graphs.block_cache(replace(GEOMETRY, kv_heads=1), 0)
    ins = [replace(t, name=f"{t.name}_{d}") for d in BOTH for t in share.inputs]
    outs = [replace(t, name=f"{t.name}_{d}") for d in BOTH for t in share.outputs]
    places = [0] * 5 + [1] * 5, [0] * 3 + [1] * 3
    found = described("block_cache_0", ins, outs, places, False)
    assert (found.spec, found.share, found.takers, found.givers) == (whole, share, 2, 2)
    history, mask = whole.inputs[3], whole.inputs[2]
    values = np.arange(16 * 2 * 4).reshape(history.shape)
    halves = parts(history, values, 2)
    assert [half.shape for half in halves] == [(1, 16, 1, 4)] * 2
    assert np.array_equal(halves[1][0, :, 0], values[0, :, 1])
    assert np.array_equal(joined(history, halves), values)
    assert [part is values for part in parts(mask, values, 2)] == [True, True]
    with pytest.raises(UserError, match="block_cache_0 has other tensors on device 1 than on device 0"):
        described("block_cache_0", ins[:-1], outs, (places[0][:-1], places[1]), False)
