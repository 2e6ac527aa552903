"""One bmodel loaded on one device, or split over several: buffers, copies, launches. Worker process only.

The library runs a split net as a whole, exchanges between devices included; it takes each input on every device. On a
simulator, which has one device, that one plays them all (yield.c). Boards with several chips take the same calls, but
none was at hand.

Every call that could end the process is checked before it is made. Inputs and outputs of all nets lie in buffers of
our own, never in the nets' scratch memory, which nets share and overwrite. Not thread-safe: launches that overlap
give garbage without an error.
"""

from __future__ import annotations

import ctypes as C
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from contract.errors import UserError
from contract.graphs import TensorSpec
from runtime import bmrt
from runtime.bmrt import BmError, DeviceMem
from runtime.cascade import Cascade, cascades, parts_alone
from runtime.half import STORAGE, Array
from runtime.nets import Net, at_length, described, joined, parts
from runtime.simulator import Libraries

_LARGEST = 2**32 - 1  # bytes; the API counts a buffer's size in 32 bits


def bytes_of(tensor: TensorSpec) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(STORAGE[tensor.dtype]).itemsize


@dataclass(frozen=True)
class Buffer:
    """Memory of the same size on each device."""

    mems: tuple[DeviceMem, ...]

    @property
    def size(self) -> int:
        return int(self.mems[0].size)

    def part(self, offset: int, size: int) -> Buffer:
        """`size` bytes of it from `offset` on, on each device. A view: it is never freed."""
        return Buffer(tuple(mem.part(offset, size) for mem in self.mems))


class Device:
    """`share_mem`: nets share one scratch memory. bm1688's simulator needs it and bm1684x's breaks by it."""

    def __init__(self, libraries: Libraries, bmodel: Path, first: int, devices: int, share_mem: bool) -> None:
        self._lib = bmrt.Library(libraries.preload, libraries.bmlib, libraries.bmrt)
        self._live: dict[int, Buffer] = {}
        self._opened: list[C.c_void_p] = []
        self._runtime: int | None = None
        self._cascades: dict[str, Cascade] = {}  # split nets that are run here, not by the library
        try:
            self._open(first, 1 if libraries.simulated else devices)
            self._handles = self._opened * (devices // len(self._opened))
            self._lib.bmrt_set_flags(self._runtime, bmrt.SHARE_MEM if share_mem else 0)
            if devices > 1 and libraries.simulated:
                self._cascades = cascades(bmodel)
            if not self._load(bmodel):
                raise BmError(f"{bmodel}: the vendor's library does not load it")
            self.nets = self._read_nets()
            self._inner = self._allocate_inner()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Must run before the process ends: the library crashes at exit otherwise, and dies of an unfreed buffer."""
        for mem in list(self._live.values()):
            self.free(mem)
        if self._runtime:
            self._lib.bmrt_destroy(self._runtime)
            self._runtime = None
        while self._opened:
            self._lib.bm_dev_free(self._opened.pop())

    def _open(self, first: int, devices: int) -> None:
        count = C.c_int()
        self._lib.bm_dev_getcount(C.byref(count))
        if not 0 <= first <= count.value - devices:  # the library would end the process
            wanted = f"device {first}" if devices == 1 else f"devices {first} to {first + devices - 1}"
            raise UserError(f"there is no {wanted}", "--device", f"count from 0; {count.value} here")
        for i in range(first, first + devices):
            handle = C.c_void_p()
            self._lib.bm_dev_request(C.byref(handle), i)
            self._opened.append(handle)
        handles = (C.c_void_p * devices)(*self._opened)
        self._runtime = self._lib.bmrt_create_ex(handles, devices)
        if not self._runtime:
            raise BmError("bmrt_create_ex failed")

    def _load(self, bmodel: Path) -> bool:
        if not self._cascades:
            return bool(self._lib.bmrt_load_bmodel(self._runtime, str(bmodel).encode()))
        with parts_alone(bmodel) as data:
            place = (C.c_char * len(data)).from_buffer(data)
            loaded = self._lib.bmrt_load_bmodel_data(self._runtime, C.addressof(place), len(data))
            del place  # else the mapping cannot be closed
        return bool(loaded)

    def _read_nets(self) -> dict[str, Net]:
        count = self._lib.bmrt_get_network_number(self._runtime)
        names = [self._lib.bmrt_get_network_name(self._runtime, i) for i in range(count)]
        parts = {part.name for cascade in self._cascades.values() for part in cascade.parts}
        nets = {name.decode(): self._read_net(name) for name in names if name.decode() not in parts}
        return nets | {name: self._read_cascade(name, cascade) for name, cascade in self._cascades.items()}

    def _read_cascade(self, name: str, cascade: Cascade) -> Net:
        first = self._lib.bmrt_get_network_info(self._runtime, cascade.parts[0].name.encode()).contents
        return cascade.net(name, bool(first.is_dynamic))

    def _allocate_inner(self) -> dict[tuple[int, str], DeviceMem]:
        """Memory for what the parts of split nets hand to each other. Nets run one at a time, so that tensors of the
        same name share it."""
        largest: dict[tuple[int, str], int] = {}
        for cascade in self._cascades.values():
            for key, tensor in cascade.inner().items():
                largest[key] = max(bytes_of(tensor), largest.get(key, 0))
        return {key: self.allocate(size).mems[key[0]] for key, size in largest.items()}

    def _read_net(self, name: bytes) -> Net:
        info = self._lib.bmrt_get_network_info(self._runtime, name).contents
        # llm_convert --chunk_length makes decode nets with several cache lengths; the longest serves every position.
        stage = max(info.stages[: info.stage_num], key=lambda s: _elements(s, info.input_num))
        inputs = _tensors(info.input_num, info.input_names, info.input_dtypes, stage.input_shapes)
        outputs = _tensors(info.output_num, info.output_names, info.output_dtypes, stage.output_shapes)
        places = info.input_loc_devices[: info.input_num], info.output_loc_devices[: info.output_num]
        return described(name.decode(), inputs, outputs, places, bool(info.is_dynamic))

    def allocate(self, size: int) -> Buffer:
        """A buffer of `size` bytes on each device, contents undefined."""
        if not 0 < size <= _LARGEST:
            raise BmError(f"a buffer of {size} bytes is beyond the API's 4 GiB")
        mems = tuple(DeviceMem() for _ in self._handles)
        for handle, mem in zip(self._handles, mems, strict=True):
            self._lib.bm_malloc_device_byte(handle, C.byref(mem), size)
        buffer = Buffer(mems)
        self._live[mems[0].addr] = buffer
        return buffer

    def free(self, buffer: Buffer) -> None:
        if self._live.pop(buffer.mems[0].addr, None) is None:
            raise BmError("freed twice")
        for handle, mem in zip(self._handles, buffer.mems, strict=True):
            self._lib.bm_free_device(handle, mem)

    def write(self, buffer: Buffer, values: Array) -> None:
        """`values`, in storage type, to the beginning of `buffer`, on each device."""
        self._write(buffer, [values] * len(buffer.mems))

    def _write(self, buffer: Buffer, values: Sequence[Array]) -> None:
        """To each device its own."""
        for handle, mem, own in zip(self._handles, buffer.mems, values, strict=False):
            _fits(own, mem)
            self._lib.bm_memcpy_s2d_partial(handle, mem, own.ctypes.data, own.nbytes)

    def read(self, buffer: Buffer, tensor: TensorSpec, device: int = 0) -> Array:
        """The beginning of `buffer` as `tensor`, in storage type."""
        values = np.empty(tensor.shape, STORAGE[tensor.dtype])
        _fits(values, buffer.mems[device])
        self._lib.bm_memcpy_d2s_partial(self._handles[device], values.ctypes.data, buffer.mems[device], values.nbytes)
        return values

    def launch(
        self,
        name: str,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        length: int | None = None,
        past: int = 0,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> list[tuple[int, ...]]:
        """Runs net `name` and waits. Buffers by tensor name; those the net lacks (a baked-in mask) are left out.

        `length`: positions in use, behind `past` in the cache; a dynamic net computes only these, a static one always
        all. `shapes`: of inputs that are smaller in another way. The shapes of the first device's outputs as they came
        out, which in a dynamic net may be smaller than the built ones.
        """
        net = self.nets[name]
        shapes = at_length(net.share, length, past) if net.dynamic and length else shapes or {}
        ins = _array(net.share.inputs, inputs, shapes, net.takers)
        outs = _array(net.share.outputs, outputs, {}, net.givers)
        if name in self._cascades:
            self._cascades[name].run(self._launch, ins, outs, self._inner)
        else:
            self._launch(name, ins, outs)
        return [out.shape.as_tuple() for out in outs[: len(net.share.outputs)]]

    def _launch(self, name: str, ins: Any, outs: Any) -> None:
        """A net of the library's, with C arrays of Tensor."""
        arguments = (name.encode(), ins, len(ins), outs, len(outs), True, False)
        if not self._lib.bmrt_launch_tensor_ex(self._runtime, *arguments):
            raise BmError(f"the vendor's library refused to launch {name}")
        for handle in self._opened:
            self._lib.bm_thread_sync(handle)

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One launch with all inputs and outputs on the host, in storage type. A dynamic net takes smaller ones than it
        was built for, and gives accordingly."""
        net = self.nets[name]
        share = net.share
        buffers = {t.name: self.allocate(bytes_of(t)) for t in (*share.inputs, *share.outputs)}
        try:
            given = {t.name: parts(t, inputs[t.name], net.takers) for t in share.inputs}
            for tensor, values in given.items():
                self._write(buffers[tensor], values)
            shapes = self.launch(name, buffers, buffers, shapes={t: v[0].shape for t, v in given.items()})
            outputs = [replace(t, shape=shape) for t, shape in zip(share.outputs, shapes, strict=True)]
            return {t.name: self._read_whole(buffers[t.name], t, net.givers) for t in outputs}
        finally:
            for buffer in buffers.values():
                self.free(buffer)

    def _read_whole(self, buffer: Buffer, tensor: TensorSpec, devices: int) -> Array:
        return joined(tensor, [self.read(buffer, tensor, device) for device in range(devices)])


def _array(
    tensors: Sequence[TensorSpec], buffers: Mapping[str, Buffer], shapes: Mapping[str, tuple[int, ...]], devices: int
) -> Any:
    """The C array of `tensors`, each in its buffer, one device after the other."""
    array = (bmrt.Tensor * (len(tensors) * devices))()
    for i in range(len(array)):
        device, tensor = i // len(tensors), tensors[i % len(tensors)]
        mem = buffers[tensor.name].mems[device]
        if mem.size < bytes_of(tensor):
            raise BmError(f"{tensor.name} takes {bytes_of(tensor)} bytes, its buffer has {mem.size}")
        array[i] = bmrt.tensor(mem, tensor.dtype, shapes.get(tensor.name, tensor.shape))
    return array


def _tensors(count: int, names: Any, dtypes: Any, shapes: Any) -> list[TensorSpec]:
    return [
        TensorSpec(names[i].decode(), shapes[i].as_tuple(), bmrt.DTYPES.get(dtypes[i], f"type {dtypes[i]}"))
        for i in range(count)
    ]


def _elements(stage: bmrt.Stage, inputs: int) -> int:
    return sum(math.prod(stage.input_shapes[i].as_tuple()) for i in range(inputs))


def _fits(values: Array, mem: DeviceMem) -> None:
    if values.nbytes > mem.size or not values.flags.c_contiguous:
        raise BmError(f"{values.nbytes} bytes do not go into a buffer of {mem.size}")
