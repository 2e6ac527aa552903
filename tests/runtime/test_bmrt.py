import ctypes

import pytest

from runtime import bmrt


def test_structs_have_the_sizes_of_the_c_abi() -> None:
    assert (ctypes.sizeof(bmrt.DeviceMem), ctypes.sizeof(bmrt.Tensor), ctypes.sizeof(bmrt.Shape)) == (24, 72, 36)
    assert (bmrt.Tensor.mem.offset, bmrt.Tensor.st_mode.offset) == (40, 64)
    assert (bmrt.NetInfo.stages.offset, bmrt.NetInfo.addr_mode.offset) == (80, 140)


def test_a_part_lies_inside_its_buffer() -> None:
    mem = bmrt.DeviceMem(0x1000, 0, 0, 0, 100)
    part = mem.part(60, 40)
    assert (part.addr, part.size) == (0x1000 + 60, 40)
    for offset, size in ((61, 40), (-1, 2), (0, 101)):
        with pytest.raises(bmrt.BmError, match="outside a buffer of 100"):
            mem.part(offset, size)


def test_check_names_call_and_reason() -> None:
    bmrt.check(0, "bm_x")
    with pytest.raises(bmrt.BmError, match=r"bm_x failed: out of memory \(code 5\)"):
        bmrt.check(5, "bm_x")


def test_tensor_carries_shape_and_type() -> None:
    tensor = bmrt.tensor(bmrt.DeviceMem(), "bfloat16", (1, 2, 3))
    assert (tensor.dtype, tensor.shape.as_tuple()) == (8, (1, 2, 3))
