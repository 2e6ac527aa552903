"""Looks into a .bmodel file without the vendor's library, which trusts the file and dies of a bad one.

A bmodel is a 64-byte header, a flatbuffer that describes the nets, and one block of binary data (weights and
commands). Everything that the library will follow is checked here first; weights themselves are not.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.bmodel import HEADER, MAGIC, READER
from contract.errors import UserError
from contract.flatbuffer import Corrupt
from contract.graphs import EMBEDDING, EMBEDDING_CACHE, LM_HEAD, GraphSpec, TensorSpec
from runtime.bmrt import DTYPES

_MAX_DIMS = 8


@dataclass(frozen=True)
class Summary:
    """`chip`: as in contract.modes. `devices`: how many chips one model spans. `nets`: names, in file order.

    `vocab`: token ids that the embedding takes, None where the file does not say. From the logits where the head
    gives them; else from the embedding's bytes, which padding to 4096 may make a few rows too many.
    """

    chip: str
    devices: int
    nets: tuple[str, ...]
    vocab: int | None


@dataclass(frozen=True)
class Slot:
    """A tensor at a part's end. `inner`: between parts of the same net. `index`: its place among the net's own."""

    tensor: TensorSpec
    inner: bool
    index: int


@dataclass(frozen=True)
class Part:
    """What one device does in one step of `net`."""

    name: str
    net: str
    step: int
    device: int
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]


def read(path: Path) -> Summary:
    """Checks the file and says what it is for. UserError: missing, not a bmodel, truncated, corrupt."""
    model = _model(path)
    nets = {net["name"]: net["parameter"][0] for net in model["net"]}
    return Summary(model["chip"].lower(), max(1, model["device_num"] or 1), tuple(nets), _vocab(nets))


def signatures(path: Path) -> list[GraphSpec]:
    """Inputs and outputs of each net, at its first stage, as the file has them. Parts of a net that is split over
    devices have that net's name. UserError as read()."""
    made = []
    for net in _model(path)["net"]:
        name, stage = (net["cascade"] or {}).get("main_name") or net["name"], net["parameter"][0]
        ins, outs = (tuple(map(_spec, stage[side])) for side in ("input_tensor", "output_tensor"))
        made.append(GraphSpec(name, name, None, ins, outs))
    return made


def parts(path: Path) -> list[Part]:
    """The parts of the nets that are split over devices, in file order. UserError as read()."""
    made = []
    for net in _model(path)["net"]:
        cascade, stage = net["cascade"] or {}, net["parameter"][0]
        if main := cascade.get("main_name"):
            ins, outs = (
                tuple(Slot(_spec(t), not t["hidden"], t["index"] or 0) for t in stage[side])
                for side in ("input_tensor", "output_tensor")
            )
            made.append(Part(net["name"], main, cascade["step"] or 0, cascade["device_id"] or 0, ins, outs))
    return made


def weight_bytes(path: Path) -> list[int]:
    """By device, the bytes of the weights that it holds; what nets share counts once. UserError as read()."""
    model = _model(path)
    held: list[set[tuple[int, int]]] = [set() for _ in range(max(1, model["device_num"] or 1))]
    for net in model["net"]:
        for stage in net["parameter"]:
            if stage["coeff_mem"]:
                held[(net["cascade"] or {}).get("device_id") or 0].add(stage["coeff_mem"]["binary_coeff"])
    return [sum(size for _, size in places) for places in held]


@dataclass(frozen=True)
class Memory:
    """Bytes that a device gives to a bmodel when it is loaded: `weights`; `commands`; `scratch` of the net that needs
    most, which all share; `io`: inputs and outputs of nets that have memory of their own."""

    weights: int
    commands: int
    scratch: int
    io: int

    @property
    def whole(self) -> int:
        return self.weights + self.commands + self.scratch + self.io


def memory(path: Path) -> list[Memory]:
    """By device, as the library lays a bmodel out where nets share their scratch. UserError as read()."""
    nets = _model(path)["net"]
    made = []
    for device, weights in enumerate(weight_bytes(path)):
        own = [net for net in nets if ((net["cascade"] or {}).get("device_id") or 0) == device]
        stages = [stage for net in own for stage in net["parameter"]]
        scratch = max((stage["ctx_size"] or 0 for stage in stages), default=0)
        io = sum(stage["io_size"] or 0 for stage in stages)
        made.append(Memory(weights, sum(map(_command_bytes, stages)), scratch, io))
    return made


def _command_bytes(stage: dict[str, Any]) -> int:
    """Of a static net, for all cores; a dynamic one has its program instead."""
    nets = stage["sub_net"] or ()
    groups = [group for net in nets for group in net["cmd_group"] or ()]
    groups += [g for net in nets for core in net["core_commands"] or () for g in core["gdma_tiu_commands"] or ()]
    program = stage["binary_ir"][1] if stage["binary_ir"] else 0
    return int(program + sum((g["bdc_cmd_byte"] or 0) + (g["gdma_cmd_byte"] or 0) for g in groups))


def cascade_places(path: Path) -> list[int]:
    """Offsets in the file of the 16 bits that say where in a net's table its cascade lies. UserError as read()."""
    described, _ = _description(path)
    return [HEADER.size + place for place in READER.places(described, "Model", "net", "cascade")]


def _spec(found: dict[str, Any]) -> TensorSpec:
    dtype = DTYPES.get(found["data_type"] or 0, "unknown")
    return TensorSpec(found["name"], tuple(found["shape"][0]["dim"]), dtype)


def require_chip(path: Path, chip: str) -> Summary:
    """As read(), and refuses a bmodel that was built for another chip."""
    summary = read(path)
    if summary.chip != chip:
        raise UserError(f"built for {summary.chip}, not {chip}", str(path), f"build it with --chip {chip}")
    return summary


def _model(path: Path) -> dict[str, Any]:
    described, binary_bytes = _description(path)
    try:
        model = READER.read(described, "Model")
        _check(model, binary_bytes)
    except Corrupt as error:
        raise UserError(f"its description is corrupt ({error})", str(path), "copy or build it again") from error
    return model


def _description(path: Path) -> tuple[bytes, int]:
    """The flatbuffer's bytes, and how many bytes of binary data follow it."""
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "no such file"
        raise UserError(what, str(path), "name a .bmodel file")
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        if len(head) < 4 or struct.unpack_from("<I", head)[0] != MAGIC:
            raise UserError("not a bmodel", str(path), "name a .bmodel file that tpu-mlir made")
        size = os.fstat(file.fileno()).st_size
        if len(head) < HEADER.size:
            raise UserError(f"truncated: {size} bytes", str(path), "copy or build it again")
        _, header_bytes, described_bytes, binary_bytes = HEADER.unpack(head)
        announced = header_bytes + described_bytes + binary_bytes
        if header_bytes != len(head):
            raise UserError(f"its header is corrupt ({header_bytes} bytes)", str(path), "copy or build it again")
        if size < announced:
            raise UserError(f"truncated: {size} bytes of {announced}", str(path), "copy or build it again")
        return file.read(described_bytes), binary_bytes


def _check(node: Any, binary_bytes: int, kind: str = "") -> None:
    """Ranges of binary data lie inside the file, shapes fit the library's arrays, every net has a stage."""
    if isinstance(node, dict):
        for field, value in node.items():
            _check(value, binary_bytes, field)
        if "dim" in node and not (node["dim"] and len(node["dim"]) <= _MAX_DIMS and all(node["dim"])):
            raise Corrupt("shape")
        for field in ("parameter", "input_tensor", "output_tensor", "shape"):
            if field in node and not node[field]:
                raise Corrupt(f"{node.get('name', kind)} has no {field}")
    elif isinstance(node, list):
        for value in node:
            _check(value, binary_bytes, kind)
    elif isinstance(node, tuple) and len(node) == 2 and sum(node) > binary_bytes:
        raise Corrupt(f"{kind} lies outside the file")


def _vocab(nets: dict[str, Any]) -> int | None:
    if LM_HEAD in nets:
        logits = nets[LM_HEAD]["output_tensor"][0]
        if not logits["data_type"]:  # float32 is 0, and a flatbuffer leaves zeros out
            return int(logits["shape"][0]["dim"][-1])
    for name in (EMBEDDING_CACHE, EMBEDDING):
        weights = nets.get(name, {}).get("coeff_mem") or {}
        tables = weights.get("location") or []
        if len(tables) == 1:
            out = nets[name]["output_tensor"][0]
            row = (out["size"] or 0) // math.prod(out["shape"][0]["dim"][:-1])
            return int((tables[0]["size"] or 0) // row) or None if row else None
    return None
