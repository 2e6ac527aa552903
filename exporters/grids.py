"""The grids of a net's weights, for a compile that keeps the levels of a quantised checkpoint. No torch here.

The weight file of a net holds plain floats, which every tool reads. Beside it `grids.npz` holds, for each weight that
lies on a grid, `<name>.scales` (float32) and `<name>.zeros` (uint8), both [N, groups], in the order in which the net
has its rows. compile.regrid finds the levels again from the floats.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contract.errors import UserError
from exporters.quantized import Array, Grid

if TYPE_CHECKING:
    from exporters.bind import Weight
    from exporters.checkpoint import Checkpoint

NAME = "grids.npz"
OUT_OF_ORDER = "its groups are no neighbouring channels (desc_act), which the chip's int4 cannot hold"
FLOATS_INSTEAD = "use MODE=int8 or bf16, which take the weights as floats"


def write(checkpoint: Checkpoint, weights: Iterable[Weight], prefix: str, path: Path) -> None:
    """`prefix`: the layer's, with a dot at its end. UserError where a weight is joined of parts that share no grid."""
    arrays: dict[str, Array] = {}
    for weight in weights:
        names = [part.replace("{layer}", prefix) for part in weight.parts]
        grids = [checkpoint.grid(name) for name in names]
        known = [grid for grid in grids if grid is not None]
        if not known:
            continue
        reason = _unfit(weight, grids)
        if reason:
            raise UserError(f"{names[0]}: {reason}", str(checkpoint.folder), FLOATS_INSTEAD)
        arrays[f"{weight.name}.scales"] = _rows(weight, [grid.scales for grid in known])
        arrays[f"{weight.name}.zeros"] = _rows(weight, [grid.zeros for grid in known])
    np.savez(path, allow_pickle=False, **arrays)


def _unfit(weight: Weight, grids: list[Grid | None]) -> str:
    """Why the grids of a weight's parts make no grid of its own; empty where they do."""
    groups = {grid.scales.shape[1] for grid in grids if grid is not None}
    if None in grids:
        return "is quantised, and what it is joined with is not"
    if len(groups) > 1:
        return "is joined with weights in other groups"
    if weight.axis or weight.normalised:
        return "is changed on its way into the net, which takes it off its grid"
    if any(grid is not None and grid.group_of is not None for grid in grids):
        return OUT_OF_ORDER
    return ""


def check(checkpoint: Checkpoint) -> None:
    """UserError where a module's groups are out of order. Reads the small tensors of the whole checkpoint."""
    for name in checkpoint.names():
        if checkpoint.out_of_order(name):
            raise UserError(f"{name}: {OUT_OF_ORDER}", str(checkpoint.folder), FLOATS_INSTEAD)


def _rows(weight: Weight, parts: list[Array]) -> Array:
    value = np.concatenate(parts)
    if weight.rows:
        value = np.concatenate([value[start:stop:step] for start, stop, step in weight.rows])
    return np.ascontiguousarray(value)
