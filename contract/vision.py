"""What the host does for a vision tower: which patches go into one launch of `vit`, with which positions and masks,
and where in the prompt's positions its feature rows stand.

numpy only: the exporter (for the parity ladder) and the runtime do the same arithmetic. Sizes are in patches unless
said otherwise; N is the number of patches of a launch, m the patches per side that the tower merges into one row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import UserError
from contract.graphs import MASKED
from contract.learned import bicubic, bilinear
from contract.towers import POSITIONS_FILE, tower_mask

Grid = tuple[int, int, int]
Array = NDArray[Any]


@dataclass(frozen=True)
class Pictures:
    """What a prompt shows. `pixels`: float32, as Hugging Face's image processor gives pixel_values: [patches, patch
    size] where the grid is free (all pictures one after the other), [pictures, 3, height, width] for towers of one
    size. `grids`: (t, h, w) of each picture or video where the grid is free. `videos`: for each, whether it is a
    video. `seconds`: for each, the time between two of its steps in t (0 for pictures)."""

    pixels: NDArray[np.float32]
    grids: tuple[Grid, ...] = ()
    videos: tuple[bool, ...] = ()
    seconds: tuple[float, ...] = ()

    def parts(self) -> list[NDArray[np.float32]]:
        """The pixels of each picture."""
        if not self.grids:
            return list(self.pixels[:, None])
        ends = np.cumsum([t * h * w for t, h, w in self.grids])
        return np.split(self.pixels, ends[:-1])

    def each(self) -> list[Pictures]:
        """Every picture by itself."""
        if not self.grids:
            return [Pictures(part) for part in self.parts()]
        rows = zip(self.parts(), self.grids, self.videos, self.seconds, strict=True)
        return [Pictures(part, (grid,), (video,), (seconds,)) for part, grid, video, seconds in rows]

    def save(self, path: Path) -> None:
        arrays = {"grids": np.array(self.grids), "videos": np.array(self.videos), "seconds": np.array(self.seconds)}
        np.savez(path, allow_pickle=False, pixels=self.pixels, **arrays)

    @cached_property
    def digests(self) -> list[str]:
        """One for each picture: equal for equal pictures."""
        return [hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest() for part in self.parts()]


def load(path: Path) -> Pictures:
    """Pictures that were saved there."""
    with np.load(path, allow_pickle=False) as found:
        grids = tuple((t, h, w) for t, h, w in found["grids"].tolist())
        return Pictures(found["pixels"], grids, tuple(found["videos"].tolist()), tuple(found["seconds"].tolist()))


@dataclass(frozen=True)
class Prompt:
    """`ids`: token ids, with a placeholder for each feature row of each picture."""

    ids: list[int]
    pictures: Pictures | None = None


@dataclass(frozen=True)
class Tower:
    """What the host must know of a tower. `patches`: N; 0 for a tower of one size, which takes one picture a launch.
    `merge`: m. `rows`: feature rows of a launch. `window`: side of an attention window, 0 without. `table`: side of
    a learned table of positions, 0 without. `axes`: 3 where the decoder takes positions in time, height and width.
    `image_token`, `video_token`: ids of the placeholders. `steps_per_second`: how far positions move in one second
    of a video, 0 where each step in t moves them by 1. `steps_apart`: text stands between the steps of a video, each
    of which has its own box of positions. `queries`: rows that a resampler makes of a picture, whatever its grid; the
    `table` is then chosen from, not interpolated; 0 without. `given`: the host has the table, interpolates it and gives
    `vit` what comes of it."""

    patches: int
    merge: int
    rows: int
    image_token: int
    video_token: int | None = None
    window: int = 0
    table: int = 0
    axes: int = 1
    steps_per_second: float = 0.0
    steps_apart: bool = False
    together: bool = False
    dynamic: bool = False
    queries: int = 0
    given: bool = False

    def rows_of(self, grid: Grid) -> int:
        """Feature rows of a picture or video."""
        t, h, w = grid
        return self.queries or t * h * w // self.merge**2

    def launches(self, pictures: Pictures, table: Array | None = None) -> Iterator[tuple[dict[str, Array], int]]:
        """The inputs of `vit` for each launch, by tensor name, and how many of its rows are real. `table`: of learned
        positions, where they are `given`.

        A video takes as many steps in t at once as fit, which changes nothing: attention stays within a step.
        UserError for a picture, or one step of a video, of more than N patches.
        """
        if not self.patches:
            yield from (({"pixel_values": part}, self.rows) for part in pictures.parts())
            return
        for (t, h, w), pixels in zip(pictures.grids, pictures.parts(), strict=True):
            if h * w > self.patches:
                what = f"a picture has {h} x {w} = {h * w} patches; this bmodel takes {self.patches}"
                raise UserError(what, remedy="give a smaller one, or build with a larger MAX_PIXELS")
            most = self.patches // (h * w)
            for start in range(0, t, most):
                steps = min(most, t - start)
                yield self._launch(pixels[start * h * w : (start + steps) * h * w], (steps, h, w), table)

    def _launch(self, pixels: Array, grid: Grid, table: Array | None) -> tuple[dict[str, Array], int]:
        if self.queries:
            return self._resampled(pixels, grid), self.queries
        count, unit = len(pixels), self.merge**2
        length = count if self.dynamic else self.patches
        order = window_order(grid, self.merge, self.window // self.merge) if self.window else None
        places = positions(grid, self.merge)
        if order is not None:
            pixels, places = (_permuted(values, order[0], unit) for values in (pixels, places))
        inputs = {"input_states": _padded(pixels, length), "position_ids": _padded(places, length)}
        frames = np.repeat(np.arange(grid[0]), grid[1] * grid[2])
        if self.given:
            assert table is not None, POSITIONS_FILE
            inputs["pos_embed"] = _padded(bicubic(places, *grid[1:], table), length)
        elif self.table:
            near = zip(("pos_idx", "pos_weight"), bilinear(places, *grid[1:], self.table), strict=True)
            inputs |= {name: _padded(values, length) for name, values in near}
        inputs[tower_mask(self.table > 0 and not self.given)] = mask(frames, length)
        if order is not None:
            inputs["window_attn_mask"] = mask(np.repeat(order[1], unit), length)
            back = np.arange(length // unit)
            back[: count // unit] = np.argsort(order[0])
            inputs["reverse_index"] = back.astype(np.int32)
        return inputs, count // unit

    def _resampled(self, pixels: Array, grid: Grid) -> dict[str, Array]:
        """UserError for a picture that is longer than the resampler's table."""
        if max(grid) > self.table:
            what = f"a picture has {grid[1]} x {grid[2]} patches; the model's positions end at {self.table}"
            raise UserError(what, remedy="give one that is less elongated")
        count, length = len(pixels), self.patches
        inside = np.where(np.arange(length) < count, 0, MASKED).astype(np.float32)
        rows, columns = (positions(grid, 1)[:, axis] for axis in (0, 1))
        chosen = buckets(grid[1], self.table)[rows] * self.table + buckets(grid[2], self.table)[columns]
        return {
            "input_states": _padded(pixels, length),
            "pos_ids": _padded(chosen.astype(np.int32), length),
            "attn_mask": mask(np.zeros(count), length),
            "pos_embed_ids": _padded(rows * self.table + columns, length),
            "resampler_attn_mask": np.tile(inside, (1, 1, self.queries, 1)),
        }

    def placeholders(self, ids: Sequence[int]) -> NDArray[np.bool_]:
        """Which of `ids` stand for feature rows."""
        return np.isin(ids, [token for token in (self.image_token, self.video_token) if token is not None])

    def unmask(self, mask: Array, ids: Sequence[int]) -> None:
        """Where a picture's rows see each other, lets them, in `mask` [T, T] of the prompt `ids`."""
        if self.together:
            for begin, end in self.runs(ids):
                mask[begin:end, begin:end] = 0

    def runs(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Beginning and end of each run of placeholders."""
        edges = np.flatnonzero(np.diff(self.placeholders(ids).astype(np.int8), prepend=0, append=0))
        return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

    def positions(self, ids: Sequence[int], pictures: Pictures | None) -> tuple[NDArray[np.int32], int]:
        """Positions [axes, T] of a prompt, and what is added to the number of positions in use to get the next one.

        Text goes on by 1 in all axes. A picture's rows lie in a box of (t, h / m, w / m) that starts where text would
        go on, and text goes on behind the largest side of the box, as Qwen2-VL's `get_rope_index` has it.
        """
        if self.axes == 1 or pictures is None:
            return np.tile(np.arange(len(ids), dtype=np.int32), (self.axes, 1)), 0
        out, at, here = np.zeros((self.axes, len(ids)), np.int32), 0, 0
        shown = self.placeholders(ids)
        for grid, seconds in self._boxes(pictures):
            begin = at + int(np.argmax(shown[at:]))
            out[:, at:begin] = np.arange(here, here + begin - at)
            here += begin - at
            t, h, w = grid[0], grid[1] // self.merge, grid[2] // self.merge
            pace = seconds * self.steps_per_second if seconds and self.steps_per_second else 1.0
            box = np.indices((t, h, w)).reshape(3, -1)
            box[0] = (box[0] * pace).astype(np.int64)
            at = begin + t * h * w
            out[:, begin:at] = here + box
            here += max(h, w)  # as Hugging Face has it: time alone moves nothing
        out[:, at:] = np.arange(here, here + len(ids) - at)
        return out, int(out.max()) + 1 - len(ids)

    def _boxes(self, pictures: Pictures) -> Iterator[tuple[Grid, float]]:
        for (t, h, w), seconds in zip(pictures.grids, pictures.seconds, strict=True):
            yield from [((1, h, w), 0.0)] * t if self.steps_apart else [((t, h, w), seconds)]


def positions(grid: Grid, merge: int) -> NDArray[np.int32]:
    """Row and column of each patch, [t * h * w, 2]; the patches of one feature row lie side by side."""
    t, h, w = grid
    places = np.indices((h, w)).reshape(2, h // merge, merge, w // merge, merge)
    flat = places.transpose(1, 3, 2, 4, 0).reshape(-1, 2)
    return np.tile(flat, (t, 1)).astype(np.int32)


def buckets(count: int, side: int) -> NDArray[np.int64]:
    """Which of `side` learned positions each of `count` patches in a row takes: the last one that begins at or before
    it. Where the two begin at one place, rounding decides, so this is torch.arange's arithmetic: it counts in steps of
    eight from a rounded start (vectors of eight floats, and one by one at the end)."""

    def spaced(start: float, step: float, number: int) -> NDArray[np.float32]:
        each = np.arange(number)
        first = np.where(each < number // 8 * 8, each // 8 * 8, each)
        rounded = np.where(first < each, (start + step * first).astype(np.float32), start + step * first)
        return np.asarray(rounded + (each - first) * step, np.float32)

    edges = spaced(1 / side, 1 / side, side - 1)
    places = spaced(0.0, float(np.float32(1) / np.float32(count)), count)
    return np.searchsorted(edges, places, side="right")


def window_order(grid: Grid, merge: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Feature rows by windows of `side` x `side` rows: their numbers in the new order, and each one's window."""
    t, h, w = grid[0], grid[1] // merge, grid[2] // merge
    time, row, column = np.indices((t, h, w)).reshape(3, -1)
    across = -(-w // side)
    window = (time * -(-h // side) + row // side) * across + column // side
    order = np.argsort(window, kind="stable")
    return order, window[order]


def mask(groups: Array, length: int) -> NDArray[np.float32]:
    """[1, 1, N, N]: patches see those of their own group. Padding sees padding, so that no row is all masked."""
    numbers = np.full(length, -1)
    numbers[: len(groups)] = groups
    return np.where(numbers[:, None] == numbers, 0, MASKED).astype(np.float32)[None, None]


def _permuted(values: Array, order: Array, unit: int) -> Array:
    return values.reshape(-1, unit, values.shape[-1])[order].reshape(values.shape)


def _padded(values: Array, length: int) -> Array:
    out = np.zeros((length, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out
