"""Keeps the levels of a quantised checkpoint: rewrites a net's mlir so that its matmuls hold them as they were.

model_deploy would find a grid of its own, from the smallest and largest weight of each group, which is the
checkpoint's only where a group uses its lowest and its highest level. So the matmuls of weights that lie on a known
grid become `top.A16MatMul`, which takes levels, scales and zero points as they are (model_deploy rounds the scales to
the half type and changes nothing else). The levels are found from the float weights, which they must give back bit by
bit.

It runs as a script in the compiler's environment (`python3 -I regrid.py`): numpy only, nothing of ours.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_FILE = re.compile(r'(module\.weight_file = ")([^"]*)"')
_ALIAS = re.compile(r'^(#loc\d*) = loc\("([^"]*)"\)', re.MULTILINE)
_WEIGHT = re.compile(r'^ *(%\w+) = "top\.Weight"\(\)[^\n]* loc\(([^)]*)\)\n', re.MULTILINE)
_MATMUL = re.compile(
    r'"top\.MatMul"\((?P<x>%\w+), (?P<w>%\w+), (?P<bias>%\w+)\) \{(?P<attributes>[^}]*)\} : '
    r"\((?P<x_type>tensor<[^>]*>), tensor<[^>]*>, (?P<bias_type>[^)]*)\)"
)
_CANNOT = ("do_relu", "left_transpose", "output_transpose", "hdim_is_batch")  # by A16MatMul


def regrid(name: str, grids: Path, bits: int, group: int) -> None:
    """Rewrite `name`.mlir in the current folder. `grids`: the exporter's grids.npz; `group`: input channels per scale,
    a part of the checkpoint's. SystemExit where a weight is used by something else, or does not lie on its grid."""
    mlir = Path(f"{name}.mlir")
    text = mlir.read_text(encoding="utf-8")
    file = _FILE.search(text)
    if not file:
        raise SystemExit("the mlir names no weight file: not a top mlir of tpu-mlir 1.30")
    with np.load(grids) as stored, np.load(file[2]) as floats:
        weights = {key.removesuffix(".scales"): key for key in stored.files if key.endswith(".scales")}
        if not weights:
            return
        arrays = {key: floats[key] for key in floats.files}
        for weight, key in weights.items():
            if weight not in arrays:
                raise SystemExit(f"{weight} lies on a grid and is not in {file[2]}")
            text, rows_first = _with_grid(text, weight, arrays[weight].shape, bits, group)
            value = arrays.pop(weight)
            value = value if rows_first else value.T
            arrays |= _grid(weight, value, stored[key], stored[f"{weight}.zeros"], bits, group)
    np.savez(f"{name}_grid.npz", allow_pickle=False, **arrays)
    mlir.write_text(_FILE.sub(rf'\g<1>{name}_grid.npz"', text, count=1), encoding="utf-8")


def _with_grid(text: str, name: str, shape: tuple[int, ...], bits: int, group: int) -> tuple[str, bool]:
    """The mlir whose matmuls take `name` on a grid, and whether they held it as [N, K]."""
    names = dict(_ALIAS.findall(text))
    (place,) = (m for m in _WEIGHT.finditer(text) if names.get(m[2], m[2].strip('"')) == name)
    held, more = place[1], f"%grid{place[1][1:]}_"
    uses = [m for m in _MATMUL.finditer(text) if m["w"] == held]
    if not uses or len(uses) != len(re.findall(rf"{held}\b", text)) - 1:
        raise SystemExit(f"{name} is used by something else than a matmul, and cannot stay on its grid")
    forms = {"right_transpose = true" in use["attributes"] for use in uses}
    if len(forms) > 1 or any(f"{flag} = true" in use["attributes"] for use in uses for flag in _CANNOT):
        raise SystemExit(f"{name} is used by a matmul of a form that takes no grid")
    (rows_first,) = forms
    rows, channels = shape if rows_first else shape[::-1]
    levels, scales, zeros = (
        f"tensor<{rows}x{channels * bits // 8}xui8>",
        f"tensor<{rows}x{channels // group}xf32>",
        f"tensor<{rows}x{channels // group}xui8>",
    )

    def call(use: re.Match[str]) -> str:
        if use["w"] != held:
            return use[0]
        attributes = (
            f'dq_type = "NONE", q_group_size = {group} : i64, right_transpose = true, weight_bits = {bits} : i64'
        )
        given = f"{use['x']}, {held}, {more}scales, {more}zeros, {use['bias']}"
        types = f"{use['x_type']}, {levels}, {scales}, {zeros}, {use['bias_type']}"
        return f'"top.A16MatMul"({given}) {{{attributes}}} : ({types})'

    parts = ((held, "levels", levels), (f"{more}scales", "scales", scales), (f"{more}zeros", "zeros", zeros))
    lines = (f'    {ssa} = "top.Weight"() : () -> {kind} loc("{name}.{part}")\n' for ssa, part, kind in parts)
    return _MATMUL.sub(call, text.replace(place[0], "".join(lines), 1)), rows_first


def _grid(name: str, value: Array, scales: Array, zeros: Array, bits: int, group: int) -> dict[str, Array]:
    """Levels [N, K] packed into bytes, the lower first, scales and zero points [N, K / group], of float32 [N, K]."""
    rows, channels = value.shape
    repeat = channels // group // scales.shape[1]
    scales, zeros = (np.repeat(part, repeat, axis=1) for part in (scales, zeros))
    value = value.reshape(rows, -1, group)
    step = np.where(scales == 0, np.float32(1), scales)[:, :, None]
    levels = np.rint(value / step) + zeros[:, :, None].astype(np.float32)
    back = (levels - zeros[:, :, None]) * scales[:, :, None]
    if levels.min() < 0 or levels.max() > 2**bits - 1 or not np.array_equal(back.astype(np.float32), value):
        raise SystemExit(f"{name} does not lie on the checkpoint's grid")
    packed: Array = levels.astype(np.uint8).reshape(rows, channels)
    if bits == 4:
        packed = packed[:, 0::2] | packed[:, 1::2] << 4
    return {f"{name}.levels": packed, f"{name}.scales": scales, f"{name}.zeros": zeros}


def main(argv: list[str]) -> int:
    """NAME GRIDS BITS GROUP"""
    if len(argv) != 4:
        print(main.__doc__, file=sys.stderr)
        return 2
    regrid(argv[0], Path(argv[1]), int(argv[2]), int(argv[3]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
