"""One bmodel loaded on one device (or chips that act as one): buffers, copies, launches. Worker process only.

Every call that could end the process is checked before it is made. Inputs and outputs of all nets lie in buffers of
our own, never in the nets' scratch memory, which nets share and overwrite. Not thread-safe: launches that overlap
give garbage without an error.
"""

from __future__ import annotations

import ctypes as C
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from contract.errors import UserError
from contract.graphs import TensorSpec
from runtime import bmrt
from runtime.bmrt import BmError, DeviceMem
from runtime.half import STORAGE, Array
from runtime.nets import Net, at_length, describe
from runtime.simulator import Libraries

_LARGEST = 2**32 - 1  # bytes; the API counts a buffer's size in 32 bits


def bytes_of(tensor: TensorSpec) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(STORAGE[tensor.dtype]).itemsize


class Device:
    """`share_mem`: nets share one scratch memory. bm1688's simulator needs it and bm1684x's breaks by it."""

    def __init__(self, libraries: Libraries, bmodel: Path, first: int, devices: int, share_mem: bool) -> None:
        self._lib = bmrt.Library(libraries.preload, libraries.bmlib, libraries.bmrt)
        self._live: dict[int, DeviceMem] = {}
        self._handles: list[C.c_void_p] = []
        self._runtime: int | None = None
        try:
            self._open(first, 1 if libraries.simulated else devices)  # a simulator is one device, however many it plays
            self._lib.bmrt_set_flags(self._runtime, bmrt.SHARE_MEM if share_mem else 0)
            if not self._lib.bmrt_load_bmodel(self._runtime, str(bmodel).encode()):
                raise BmError(f"{bmodel}: the vendor's library does not load it")
            self.nets = self._read_nets()
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
        while self._handles:
            self._lib.bm_dev_free(self._handles.pop())

    def _open(self, first: int, devices: int) -> None:
        count = C.c_int()
        self._lib.bm_dev_getcount(C.byref(count))
        if not 0 <= first <= count.value - devices:  # the library would end the process
            wanted = f"device {first}" if devices == 1 else f"devices {first} to {first + devices - 1}"
            raise UserError(f"there is no {wanted}", "--device", f"count from 0; {count.value} here")
        for i in range(first, first + devices):
            handle = C.c_void_p()
            self._lib.bm_dev_request(C.byref(handle), i)
            self._handles.append(handle)
        handles = (C.c_void_p * devices)(*self._handles)
        self._runtime = self._lib.bmrt_create_ex(handles, devices)
        if not self._runtime:
            raise BmError("bmrt_create_ex failed")

    def _read_nets(self) -> dict[str, Net]:
        count = self._lib.bmrt_get_network_number(self._runtime)
        names = [self._lib.bmrt_get_network_name(self._runtime, i) for i in range(count)]
        return {name.decode(): self._read_net(name) for name in names}

    def _read_net(self, name: bytes) -> Net:
        info = self._lib.bmrt_get_network_info(self._runtime, name).contents
        # llm_convert --chunk_length makes decode nets with several cache lengths; the longest serves every position.
        stage = max(info.stages[: info.stage_num], key=lambda s: _elements(s, info.input_num))
        inputs = _tensors(info.input_num, info.input_names, info.input_dtypes, stage.input_shapes)
        outputs = _tensors(info.output_num, info.output_names, info.output_dtypes, stage.output_shapes)
        return Net(describe(name.decode(), inputs, outputs), bool(info.is_dynamic))

    def allocate(self, size: int) -> DeviceMem:
        """A buffer of `size` bytes, contents undefined."""
        if not 0 < size <= _LARGEST:
            raise BmError(f"a buffer of {size} bytes is beyond the API's 4 GiB")
        mem = DeviceMem()
        self._lib.bm_malloc_device_byte(self._handles[0], C.byref(mem), size)
        self._live[mem.addr] = mem
        return mem

    def free(self, mem: DeviceMem) -> None:
        if self._live.pop(mem.addr, None) is None:
            raise BmError("freed twice")
        self._lib.bm_free_device(self._handles[0], mem)

    def write(self, mem: DeviceMem, values: Array) -> None:
        """`values`, in storage type, to the beginning of `mem`."""
        _fits(values, mem)
        self._lib.bm_memcpy_s2d_partial(self._handles[0], mem, values.ctypes.data, values.nbytes)

    def read(self, mem: DeviceMem, tensor: TensorSpec) -> Array:
        """The beginning of `mem` as `tensor`, in storage type."""
        values = np.empty(tensor.shape, STORAGE[tensor.dtype])
        _fits(values, mem)
        self._lib.bm_memcpy_d2s_partial(self._handles[0], values.ctypes.data, mem, values.nbytes)
        return values

    def launch(
        self,
        name: str,
        inputs: Mapping[str, DeviceMem],
        outputs: Mapping[str, DeviceMem],
        length: int | None = None,
        past: int = 0,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> list[tuple[int, ...]]:
        """Runs net `name` and waits. Buffers by tensor name; those the net lacks (a baked-in mask) are left out.

        `length`: positions in use, behind `past` in the cache; a dynamic net computes only these, a static one always
        all. `shapes`: of inputs that are smaller in another way. The outputs' shapes as they came out, which in a
        dynamic net may be smaller than the built ones.
        """
        net = self.nets[name]
        shapes = at_length(net.spec, length, past) if net.dynamic and length else shapes or {}
        ins, outs = _array(net.spec.inputs, inputs, shapes), _array(net.spec.outputs, outputs, {})
        arguments = (name.encode(), ins, len(ins), outs, len(outs), True, False)
        if not self._lib.bmrt_launch_tensor_ex(self._runtime, *arguments):
            raise BmError(f"the vendor's library refused to launch {name}")
        for handle in self._handles:
            self._lib.bm_thread_sync(handle)
        return [out.shape.as_tuple() for out in outs]

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One launch with all inputs and outputs on the host, in storage type. A dynamic net takes smaller ones than it
        was built for, and gives accordingly."""
        spec = self.nets[name].spec
        buffers = {t.name: self.allocate(bytes_of(t)) for t in (*spec.inputs, *spec.outputs)}
        try:
            for tensor in spec.inputs:
                self.write(buffers[tensor.name], inputs[tensor.name])
            shapes = self.launch(name, buffers, buffers, shapes={t: tuple(v.shape) for t, v in inputs.items()})
            outputs = [replace(t, shape=shape) for t, shape in zip(spec.outputs, shapes, strict=True)]
            return {t.name: self.read(buffers[t.name], t) for t in outputs}
        finally:
            for mem in buffers.values():
                self.free(mem)


def _array(tensors: Sequence[TensorSpec], mems: Mapping[str, DeviceMem], shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """The C array of `tensors`, each in its buffer."""
    array = (bmrt.Tensor * len(tensors))()
    for i, tensor in enumerate(tensors):
        mem = mems[tensor.name]
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
