"""The net of a vision tower: names, tensor names, shapes and dtypes, as llm_convert has them (see contract.graphs)."""

from __future__ import annotations

from dataclasses import dataclass

from contract.graphs import BFLOAT16, FLOAT32, INT32, VIT, GraphSpec, TensorSpec

# The learned positions of a tower that takes them as the host has brought them to a picture's grid: float32
# [1, H, side, side], in numpy's format. llm_convert's name and form.
POSITIONS_FILE = "pos_embed_weight.npy"


@dataclass(frozen=True)
class VisionGeometry:
    """The sizes of a tower's net. `patches`, `patch_size`: patches of a launch and values of each, for a tower whose
    grid is free; `picture`: [height, width] in pixels for one whose pictures have one size. `rows`: feature rows out
    of a launch, [rows, `hidden`]. `windows`: some layers attend within windows. `table`: positions are interpolated
    from a learned table. `queries`: a resampler makes so many rows of any grid. `deepstack`: so many more outputs like
    that, for the decoder's first layers. `positions`: channels of the positions that the host gives (POSITIONS_FILE),
    0 without."""

    hidden: int
    rows: int
    patches: int = 0
    patch_size: int = 0
    picture: tuple[int, int] = (0, 0)
    windows: bool = False
    table: bool = False
    deepstack: int = 0
    queries: int = 0
    half: str = BFLOAT16
    positions: int = 0


def tower_mask(table: bool) -> str:
    """The tower's input that says which patches see each other. llm_convert has another name for it where positions
    are interpolated from a learned table (Qwen3-VL)."""
    return "attention_mask" if table else "full_attn_mask"


def vit(v: VisionGeometry) -> GraphSpec:
    """Pixels to feature rows, in the decoder's half type. Masks hold MASKED and 0; where there are windows, patches
    come in their order, and `reverse_index` puts the rows back."""
    names = ("image_embeds", *(f"deepstack_{i}" for i in range(v.deepstack)))
    features = tuple(TensorSpec(name, (v.rows, v.hidden), v.half) for name in names)
    if not v.patches:
        pixels = TensorSpec("pixel_values", (1, 3, *v.picture), FLOAT32)
        return GraphSpec(VIT, VIT, None, (pixels,), features)
    n = v.patches
    if v.queries:
        return GraphSpec(VIT, VIT, None, _resampled(v), features)
    inputs = [TensorSpec("input_states", (n, v.patch_size), FLOAT32), TensorSpec("position_ids", (n, 2), INT32)]
    if v.table:
        inputs += [TensorSpec("pos_idx", (n, 4), INT32), TensorSpec("pos_weight", (n, 4, 1), FLOAT32)]
    inputs.append(TensorSpec(tower_mask(v.table), (1, 1, n, n), FLOAT32))
    if v.windows:
        inputs.append(TensorSpec("window_attn_mask", (1, 1, n, n), FLOAT32))
        inputs.append(TensorSpec("reverse_index", (v.rows,), INT32))
    if v.positions:
        inputs.append(TensorSpec("pos_embed", (n, v.positions), FLOAT32))
    return GraphSpec(VIT, VIT, None, tuple(inputs), features)


def _resampled(v: VisionGeometry) -> tuple[TensorSpec, ...]:
    """`pos_ids`, `pos_embed_ids`: of each patch, its row in the tower's table of positions, and in the resampler's."""
    n = v.patches
    return (
        TensorSpec("input_states", (n, v.patch_size), FLOAT32),
        TensorSpec("pos_ids", (n,), INT32),
        TensorSpec("attn_mask", (1, 1, n, n), FLOAT32),
        TensorSpec("pos_embed_ids", (n,), INT32),
        TensorSpec("resampler_attn_mask", (1, 1, v.queries, n), FLOAT32),
    )
