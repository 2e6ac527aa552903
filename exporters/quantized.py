"""Checkpoints whose linear weights are integers on a grid: AWQ, GPTQ, compressed-tensors. No torch here.

Each group of input channels of an output channel has a scale and a zero point, and a weight is (level - zero) * scale.
Levels and zeros are packed into int32, low bits first; the formats differ in what is packed along which axis:

    AWQ (gemm)           qweight [K, N/8], qzeros [K/g, N/8], scales [K/g, N]; columns in the order 0 2 4 6 1 3 5 7
    GPTQ                 qweight [K/8, N], qzeros [K/g, N/8], scales [K/g, N], g_idx [K]: the group of each channel;
                         format v1 stores zeros less one
    compressed-tensors   weight_packed [N, K/8], weight_zero_point [N/8, K/g] (none: the middle level),
    (pack-quantized)     weight_scale [N, K/g], weight_g_idx [K] or none

N: output channels, K: input channels, g: group size; 8 stands for 32 / bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from contract.errors import UserError

Array = np.ndarray[Any, Any]
BITS = (4, 8)
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where in an int32 columns 0, 1, 2, … lie
FLOATS = "take the checkpoint in float16 or bfloat16"


@dataclass(frozen=True)
class Scheme:
    """`method`: a key of LAYOUTS. `group_size`: input channels per scale; 0: all of a row. `v1`: GPTQ's old zeros."""

    method: str
    bits: int
    group_size: int
    v1: bool = False


@dataclass(frozen=True)
class Grid:
    """A module's weight: `levels` [N, K] and `zeros` [N, groups], uint8; `scales` [N, groups], float32; `group_of` [K]:
    the group of each input channel where groups are no neighbours, else None."""

    levels: Array
    zeros: Array
    scales: Array
    group_of: Array | None = None

    def weight(self) -> Array:
        """Float32 [N, K]: exact, since a level takes 8 bits and a half-precision scale 11."""
        groups = self.group_of
        if groups is None:
            groups = np.arange(self.levels.shape[1]) // (self.levels.shape[1] // self.scales.shape[1])
        steps = self.levels.astype(np.float32) - self.zeros.astype(np.float32)[:, groups]
        return np.ascontiguousarray(steps * self.scales[:, groups])


class Tensors(Protocol):
    """Tensors of a checkpoint as they are stored."""

    def __contains__(self, name: str) -> bool: ...

    def raw(self, name: str) -> Array: ...

    def shape(self, name: str) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Layout:
    """How one format lies in a file. `parts`: the tensors beside a module's path, the packed levels first, those of
    them that may be missing in `optional`. `shape(tensors, module, scheme)`: [N, K]."""

    parts: tuple[str, ...]
    optional: tuple[str, ...]
    shape: Callable[[Tensors, str, Scheme], tuple[int, int]]
    read: Callable[[Tensors, str, Scheme], Grid]


def unpack(packed: Array, bits: int, order: tuple[int, ...] | None = None) -> Array:
    """uint8 [R, C * 32 / bits] of int32 [R, C]. `order`: the place in an int32 of each of its values."""
    places = np.array(order or range(32 // bits), np.uint32) * np.uint32(bits)
    values = packed.view(np.uint32)[:, :, None] >> places & np.uint32(2**bits - 1)
    return values.astype(np.uint8).reshape(packed.shape[0], -1)


def _awq(tensors: Tensors, module: str, scheme: Scheme) -> Grid:
    levels, zeros = (unpack(tensors.raw(f"{module}.{p}"), scheme.bits, AWQ_ORDER) for p in ("qweight", "qzeros"))
    return Grid(levels.T, zeros.T, tensors.raw(f"{module}.scales").astype(np.float32).T)


def _gptq(tensors: Tensors, module: str, scheme: Scheme) -> Grid:
    qzeros = tensors.raw(f"{module}.qzeros").view(np.uint32)
    if scheme.v1:  # in one addition over the whole int32, carries included, as gptqmodel does it
        qzeros = qzeros + np.uint32(0x11111111 if scheme.bits == 4 else 0x01010101)
    levels = unpack(np.ascontiguousarray(tensors.raw(f"{module}.qweight").T), scheme.bits)
    scales = tensors.raw(f"{module}.scales").astype(np.float32).T
    return Grid(levels, unpack(qzeros, scheme.bits).T, scales, group_of(tensors, f"{module}.g_idx", scales.shape[1]))


def _compressed(tensors: Tensors, module: str, scheme: Scheme) -> Grid:
    rows, columns = _compressed_shape(tensors, module, scheme)
    levels = unpack(tensors.raw(f"{module}.weight_packed"), scheme.bits)[:, :columns]
    scales = tensors.raw(f"{module}.weight_scale").astype(np.float32)
    zeros = np.full(scales.shape, 2 ** (scheme.bits - 1), np.uint8)
    if f"{module}.weight_zero_point" in tensors:
        packed = np.ascontiguousarray(tensors.raw(f"{module}.weight_zero_point").T)
        zeros = unpack(packed, scheme.bits).T[:rows]
    return Grid(levels, zeros, scales, group_of(tensors, f"{module}.weight_g_idx", scales.shape[1]))


def group_of(tensors: Tensors, name: str, groups: int) -> Array | None:
    """The group of each input channel, None where each group's channels are neighbours."""
    if name not in tensors:
        return None
    found = tensors.raw(name).astype(np.int64)
    if (found < 0).all():  # compressed-tensors' mark for "not used"
        return None
    plain = np.arange(found.size) // (found.size // groups)
    return None if np.array_equal(found, plain) else found


def _awq_shape(tensors: Tensors, module: str, scheme: Scheme) -> tuple[int, int]:
    channels, packed = tensors.shape(f"{module}.qweight")
    return packed * 32 // scheme.bits, channels


def _gptq_shape(tensors: Tensors, module: str, scheme: Scheme) -> tuple[int, int]:
    packed, outputs = tensors.shape(f"{module}.qweight")
    return outputs, packed * 32 // scheme.bits


def _compressed_shape(tensors: Tensors, module: str, scheme: Scheme) -> tuple[int, int]:
    rows, columns = tensors.raw(f"{module}.weight_shape").tolist()
    return int(rows), int(columns)


LAYOUTS = {
    "awq": Layout(("qweight", "qzeros", "scales"), (), _awq_shape, _awq),
    "gptq": Layout(("qweight", "qzeros", "scales", "g_idx"), ("g_idx",), _gptq_shape, _gptq),
    "compressed-tensors": Layout(
        ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"),
        ("weight_zero_point", "weight_g_idx"),
        _compressed_shape,
        _compressed,
    ),
}


def packed_modules(names: Iterable[str], scheme: Scheme) -> dict[str, tuple[str, ...]]:
    """By path of a quantised module, its packed tensors among `names`. UserError where one is missing."""
    layout, held = LAYOUTS[scheme.method], dict.fromkeys(names)
    first = f".{layout.parts[0]}"
    found = {}
    for module in [name.removesuffix(first) for name in held if name.endswith(first)]:
        parts = [f"{module}.{part}" for part in layout.parts]
        missing = [p for p in parts if p not in held and p.removeprefix(f"{module}.") not in layout.optional]
        if missing:
            raise UserError(f"lacks the tensor {missing[0]}", remedy="download the whole checkpoint")
        found[module] = tuple(part for part in parts if part in held)
    return found


def read(config: Mapping[str, Any], where: str) -> Scheme | None:
    """What config.json says of the weights, None where they are plain floats.

    UserError, naming what it is, for a method, format or width that is not read here.
    """
    said = config.get("quantization_config") or config.get("compression_config")
    if not said:
        return None
    method, packing = said.get("quant_method"), said.get("packing_format", "auto_round:auto_gptq")
    if method == "auto-round":  # writes either of the two formats
        method = {"auto_round:auto_gptq": "gptq", "auto_round:auto_awq": "awq"}.get(packing, packing)
    if method not in LAYOUTS:
        raise UserError(f"quant_method {method!r} is not read", where, f"{FLOATS}, or in AWQ, GPTQ or pack-quantized")
    try:
        scheme = (
            _compressed_scheme(said, where) if method == "compressed-tensors" else _plain_scheme(method, said, where)
        )
    except KeyError as error:
        raise UserError(
            f"quantization_config lacks {error.args[0]!r}", where, "take the original config.json"
        ) from error
    if scheme.bits not in BITS:
        raise UserError(f"weights of {scheme.bits} bits are not read", where, f"take one of 4 or 8 bits, or {FLOATS}")
    return scheme


def _plain_scheme(method: str, said: Mapping[str, Any], where: str) -> Scheme:
    form = str(said.get("version") or "gemm") if method == "awq" else str(said.get("checkpoint_format") or "gptq")
    known = {"awq": ("gemm",), "gptq": ("gptq", "gptq_v2")}[method]
    if form.lower() not in known:
        raise UserError(f"{method} format {form!r} is not read", where, f"take one in {' or '.join(known)}")
    return Scheme(method, said.get("bits") or said["w_bit"], max(said["group_size"], 0), form.lower() == "gptq")


def _compressed_scheme(said: Mapping[str, Any], where: str) -> Scheme:
    groups = list(said["config_groups"].values())
    first = groups[0]
    weights = first["weights"]
    format_ = first.get("format") or said.get("format")
    odd = [
        (len(groups) > 1, "several config_groups"),
        (format_ != "pack-quantized", f"format {format_!r}"),
        (weights.get("type", "int") != "int", f"weights of type {weights.get('type')!r}"),
        (weights.get("strategy") not in ("group", "channel"), f"strategy {weights.get('strategy')!r}"),
        (bool(first.get("input_activations")), "quantised activations"),
        (bool(said.get("transform_config")), "a transform_config"),
        ((said.get("sparsity_config") or {}).get("format", "dense") != "dense", "sparse weights"),
    ]
    for is_so, what in odd:
        if is_so:
            raise UserError(f"compressed-tensors with {what} is not read", where, FLOATS)
    return Scheme("compressed-tensors", weights["num_bits"], max(weights.get("group_size") or 0, 0))
