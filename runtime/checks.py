"""Checks what goes into a net before the vendor's library sees it: it copies past buffers and reads past tables."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from contract import graphs, towers
from contract.errors import UserError
from contract.graphs import GraphSpec, TensorSpec
from runtime.half import STORAGE, Array
from runtime.nets import PREFILL, contract

_IDS = contract(graphs.EMBEDDING).inputs[0].name
_POSITIONS, _MASK = (t.name for t in contract(graphs.BLOCK).inputs[1:])
_TOP_K = contract(graphs.SAMPLE_HEAD).inputs[4].name
_REVERSE = "reverse_index"
_LEARNED = "pos_embed"
_INT32 = np.iinfo(np.int32)


def inputs(spec: GraphSpec, given: Mapping[str, Array], vocab: int | None, positions: int | None) -> dict[str, Array]:
    """The tensors that `spec` wants, out of `given`. UserError for any that is missing, unknown or does not fit.

    `vocab` and `positions` bound token and position ids (None: not known).
    """
    wanted = {t.name: t for t in spec.inputs}
    spare = {_MASK} if spec.kind in PREFILL else set()  # built into dynamic blocks
    for name in [*(n for n in given if n not in wanted and n not in spare), *(n for n in wanted if n not in given)]:
        what = "is missing" if name in wanted else "is not an input"
        raise UserError(f"tensor {name!r} {what}", spec.name, f"give {', '.join(wanted)}")
    bounds = {
        _IDS: (0, vocab or _INT32.max),
        _POSITIONS: (0, positions or _INT32.max),
        _TOP_K: (1, spec.outputs[0].shape[-1] + 1),  # beyond, the net writes past its outputs
    }
    if spec.kind == graphs.VIT:  # N / m rows of tables, where rows = N / m²
        rows = spec.outputs[0].shape[0]
        bounds = {_POSITIONS: (0, math.isqrt(spec.inputs[0].shape[0] * rows)), _REVERSE: (0, rows)}
    for tensor in spec.inputs:
        _check(spec, tensor, given[tensor.name], bounds.get(tensor.name))
    return {name: given[name] for name in wanted}


def fewer(spec: GraphSpec, given: Mapping[str, Array]) -> GraphSpec:
    """A tower's net over as many patches as are given, where these are whole feature rows and no more than built."""
    built, rows = spec.inputs[0].shape[0], spec.outputs[0].shape[0]
    count = len(given.get(spec.inputs[0].name, ()))
    if not 0 < count <= built or count * rows % built:
        raise UserError(f"{count} patches do not fit", spec.name, f"give at most {built}, in whole feature rows")
    names, features = {t.name: t for t in spec.inputs}, spec.outputs[0]
    positions = names[_LEARNED].shape[1] if _LEARNED in names else 0
    sizes = (features.shape[1], count * rows // built, count, spec.inputs[0].shape[1], (0, 0))
    forms = (_REVERSE in names, "pos_idx" in names, len(spec.outputs) - 1)
    return towers.vit(towers.VisionGeometry(*sizes, *forms, half=features.dtype, positions=positions))


def token_ids(ids: object, vocab: int | None, where: str) -> list[int]:
    """`ids` as plain ints, each within the vocabulary. UserError otherwise."""
    values = np.asarray(ids)
    if values.ndim != 1 or values.size == 0 or not np.issubdtype(values.dtype, np.integer):
        raise UserError("no token ids", where, "give at least one, as integers")
    _bounded(values, (0, vocab or _INT32.max), "token id", where)
    return [int(i) for i in values]


def _check(spec: GraphSpec, tensor: TensorSpec, values: Array, bounds: tuple[int, int] | None) -> None:
    where = f"{spec.name}, {tensor.name}"
    if tuple(values.shape) != tensor.shape:
        raise UserError(f"shape {list(values.shape)} is not {list(tensor.shape)}", where)
    whole = np.issubdtype(STORAGE[tensor.dtype], np.integer) and tensor.dtype != graphs.BFLOAT16
    if not np.issubdtype(values.dtype, np.integer if whole else np.floating):
        raise UserError(f"type {values.dtype} does not fit {tensor.dtype}", where)
    if whole:
        limits = np.iinfo(np.dtype(STORAGE[tensor.dtype]))
        _bounded(values, bounds or (int(limits.min), int(limits.max) + 1), "value", where)


def _bounded(values: Array, bounds: tuple[int, int], what: str, where: str) -> None:
    """`bounds`: the lowest that is allowed, and the first above that is not."""
    low, end = bounds
    wrong = values[(values < low) | (values >= end)]
    if wrong.size:
        raise UserError(f"{what} {int(wrong[0])} is out of range", where, f"use {low} to {end - 1}")
