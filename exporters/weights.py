"""The weight file of a group of nets: one npz that ONNX graphs and the compiler's MLIR read alike.

An npz is a zip of uncompressed arrays, so an ONNX initializer can name its bytes as external data, and tpu-mlir
reads the same file by array names. `offsets` says where the bytes will lie before the file exists, which lets one
traced graph serve every layer. No torch here.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

NAME = "weights.npz"
Array = np.ndarray[Any, np.dtype[np.float32]]

# Zip's local file header is 30 bytes, then the name, then zip64's extra field (always written: sizes may pass 4 GB).
_LOCAL_HEADER, _ZIP64_EXTRA = 30, 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time, so that equal weights give equal files


def offsets(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Byte offset of each float32 array's data in the file that `write` makes of these shapes, in their order."""
    places, position = {}, 0
    for name, shape in shapes.items():
        data = position + _LOCAL_HEADER + len(_entry(name)) + _ZIP64_EXTRA + len(_npy_header(shape))
        places[name] = data
        position = data + nbytes(shape)
    return places


def nbytes(shape: tuple[int, ...]) -> int:
    return 4 * int(np.prod(shape, dtype=np.int64))


def write(arrays: Iterable[tuple[str, Array]], path: Path) -> None:
    """Write float32 arrays one after the other: one is in memory at a time if `arrays` is lazy."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            info = zipfile.ZipInfo(_entry(name), _EPOCH)
            with archive.open(info, "w", force_zip64=True) as entry:
                entry.write(_npy_header(array.shape))
                entry.write(np.ascontiguousarray(array, np.float32).data.cast("B"))


def _entry(name: str) -> str:
    return f"{name}.npy"


def _npy_header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)})
    return buffer.getvalue()
