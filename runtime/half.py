"""float32 to the chip's storage types and back. bfloat16, which numpy lacks, lies in uint16 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.graphs import BFLOAT16, FLOAT16, FLOAT32, INT32

Array = NDArray[Any]

STORAGE: dict[str, type[np.generic]] = {
    FLOAT32: np.float32,
    INT32: np.int32,
    FLOAT16: np.float16,
    BFLOAT16: np.uint16,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
    "uint32": np.uint32,
}


def to_storage(values: Array, dtype: str) -> Array:
    """`values` as the chip stores `dtype`: rounded to nearest, ties to even. Integers are not checked."""
    if dtype == BFLOAT16:
        return np.ascontiguousarray(_to_bfloat16(values))
    with np.errstate(over="ignore"):  # beyond float16's range lies infinity, as in every other implementation
        return np.ascontiguousarray(values, dtype=STORAGE[dtype])


def from_storage(stored: Array, dtype: str) -> Array:
    """What a stored array means: float32 for the half types, unchanged for all others."""
    if dtype == BFLOAT16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32) if dtype == FLOAT16 else stored


def _to_bfloat16(values: Array) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000  # rounding could carry a NaN into infinity
    return np.where(nan, np.uint32(0x7FC0), rounded).astype(np.uint16)
