"""The vendor's C API, libbmlib and libbmrt, through ctypes: structs by value, and one check() for every code.

It knows nothing of nets' meanings and holds no state but the two loaded libraries. Nothing here guards the
library against bad calls: copies past a buffer, double frees and wrong shapes end the process. Callers check first.
"""

from __future__ import annotations

import ctypes as C
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contract.graphs import BFLOAT16, FLOAT16, FLOAT32, INT32

MAX_DIMS = 8
SHARE_MEM = 1  # flag of bmrt_set_flags: the nets share one scratch memory

DTYPES = {0: FLOAT32, 1: FLOAT16, 2: "int8", 3: "uint8", 4: "int16", 5: "uint16", 6: INT32, 7: "uint32", 8: BFLOAT16}
CODES = {name: code for code, name in DTYPES.items()}

_STATUS = {
    1: "device not ready",
    2: "failure",
    3: "timeout",
    4: "bad parameter",
    5: "out of memory",
    6: "data error",
    7: "busy",
    8: "no such feature",
    9: "not supported",
}


class BmError(RuntimeError):
    """The vendor's library reported an error."""


class DeviceMem(C.Structure):
    """`bm_device_mem_t`, 24 bytes: an address on the device and its size in bytes."""

    _fields_ = (
        ("addr", C.c_uint64),
        ("reserved", C.c_uint32),
        ("dmabuf_fd", C.c_int32),
        ("flags", C.c_uint32),
        ("size", C.c_uint32),
    )

    def part(self, offset: int, size: int) -> DeviceMem:
        """`size` bytes of this memory from `offset` on. A view: it is never freed."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise BmError(f"bytes {offset}..{offset + size} lie outside a buffer of {self.size}")
        return DeviceMem(self.addr + offset, self.reserved, self.dmabuf_fd, self.flags, size)


class Shape(C.Structure):
    """`bm_shape_t`."""

    _fields_ = (("num_dims", C.c_int), ("dims", C.c_int * MAX_DIMS))

    def as_tuple(self) -> tuple[int, ...]:
        return tuple(self.dims[: self.num_dims])


class Tensor(C.Structure):
    """`bm_tensor_t`, 72 bytes."""

    _fields_ = (("dtype", C.c_int), ("shape", Shape), ("mem", DeviceMem), ("st_mode", C.c_int))


class Stage(C.Structure):
    """`bm_stage_info_t`."""

    _fields_ = (
        ("input_shapes", C.POINTER(Shape)),
        ("output_shapes", C.POINTER(Shape)),
        ("input_mems", C.POINTER(DeviceMem)),
        ("output_mems", C.POINTER(DeviceMem)),
    )


class NetInfo(C.Structure):
    """`bm_net_info_t`."""

    _fields_ = (
        ("name", C.c_char_p),
        ("is_dynamic", C.c_bool),
        ("input_num", C.c_int),
        ("input_names", C.POINTER(C.c_char_p)),
        ("input_dtypes", C.POINTER(C.c_int)),
        ("input_scales", C.POINTER(C.c_float)),
        ("output_num", C.c_int),
        ("output_names", C.POINTER(C.c_char_p)),
        ("output_dtypes", C.POINTER(C.c_int)),
        ("output_scales", C.POINTER(C.c_float)),
        ("stage_num", C.c_int),
        ("stages", C.POINTER(Stage)),
        ("max_input_bytes", C.POINTER(C.c_size_t)),
        ("max_output_bytes", C.POINTER(C.c_size_t)),
        ("input_zero_point", C.POINTER(C.c_int)),
        ("output_zero_point", C.POINTER(C.c_int)),
        ("input_loc_devices", C.POINTER(C.c_int)),
        ("output_loc_devices", C.POINTER(C.c_int)),
        ("core_num", C.c_int),
        ("addr_mode", C.c_int32),
    )


def tensor(mem: DeviceMem, dtype: str, shape: Sequence[int]) -> Tensor:
    """A tensor of `shape` that lies in `mem`."""
    return Tensor(CODES[dtype], Shape(len(shape), (C.c_int * MAX_DIMS)(*shape)), mem, 0)


def check(code: int, call: str) -> None:
    """Raises BmError unless `code` is BM_SUCCESS."""
    if code:
        raise BmError(f"{call} failed: {_STATUS.get(code, 'unknown error')} (code {code})")


_STATUS_CALLS: dict[str, tuple[Any, ...]] = {
    "bm_dev_getcount": (C.POINTER(C.c_int),),
    "bm_dev_request": (C.POINTER(C.c_void_p), C.c_int),
    "bm_malloc_device_byte": (C.c_void_p, C.POINTER(DeviceMem), C.c_uint),
    "bm_memcpy_s2d_partial": (C.c_void_p, DeviceMem, C.c_void_p, C.c_uint),
    "bm_memcpy_d2s_partial": (C.c_void_p, C.c_void_p, DeviceMem, C.c_uint),
    "bm_thread_sync": (C.c_void_p,),
}
_OTHER_CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "bm_dev_free": (None, (C.c_void_p,)),
    "bm_free_device": (None, (C.c_void_p, DeviceMem)),
    "bmrt_create_ex": (C.c_void_p, (C.POINTER(C.c_void_p), C.c_int)),
    "bmrt_destroy": (None, (C.c_void_p,)),
    "bmrt_set_flags": (None, (C.c_void_p, C.c_uint32)),
    "bmrt_load_bmodel": (C.c_bool, (C.c_void_p, C.c_char_p)),
    "bmrt_load_bmodel_data": (C.c_bool, (C.c_void_p, C.c_void_p, C.c_size_t)),
    "bmrt_get_network_number": (C.c_int, (C.c_void_p,)),
    "bmrt_get_network_name": (C.c_char_p, (C.c_void_p, C.c_int)),
    "bmrt_get_network_info": (C.POINTER(NetInfo), (C.c_void_p, C.c_char_p)),
    "bmrt_launch_tensor_ex": (
        C.c_bool,
        (C.c_void_p, C.c_char_p, C.POINTER(Tensor), C.c_int, C.POINTER(Tensor), C.c_int, C.c_bool, C.c_bool),
    ),
}


class Library:
    """The functions used here, with their C types. Functions that return a status raise BmError instead."""

    def __init__(self, preload: Sequence[Path], bmlib: Path, bmrt: Path) -> None:
        """Loads `preload` for all to see (the simulator), then the two libraries. One chip per process."""
        for path in preload:
            C.CDLL(str(path), mode=C.RTLD_GLOBAL)
        homes = (C.CDLL(str(bmlib), mode=C.RTLD_GLOBAL), C.CDLL(str(bmrt), mode=C.RTLD_GLOBAL))
        self._homes = {"bm_": homes[0], "bmrt_": homes[1]}
        for name, types in _STATUS_CALLS.items():
            setattr(self, name, self._checked(name, self._function(name, C.c_int, types)))
        for name, (result, types) in _OTHER_CALLS.items():
            setattr(self, name, self._function(name, result, types))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # tells mypy that the functions set above exist

    def _function(self, name: str, result: Any, types: Sequence[Any]) -> Any:
        function = getattr(self._homes["bmrt_" if name.startswith("bmrt_") else "bm_"], name)
        function.restype, function.argtypes = result, list(types)
        return function

    @staticmethod
    def _checked(name: str, function: Any) -> Any:
        return lambda *arguments: check(function(*arguments), name)
