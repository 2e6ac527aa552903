"""Pictures on the parity ladder: a prompt that shows one, and what the tower makes of it by Hugging Face, by torch and
by ONNX Runtime.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from contract import graphs, towers
from contract.graphs import Geometry
from contract.ladder import MAX_ABS_ONNX, MAX_ABS_PATCHED, ONNX, PATCHED
from contract.vision import Grid, Pictures
from exporters import chain, table
from exporters.chain import Array, Call, distance
from exporters.checkpoint import Checkpoint
from exporters.model import Decoder
from exporters.vision import Size, VisionSpec

if TYPE_CHECKING:
    from exporters.reference import Reference

_TEXT = 4  # tokens of the prompt that stay, at least, however large the picture


def sample(spec: VisionSpec, size: Size, ids: list[int], room: int) -> tuple[list[int], Pictures]:
    """`ids` with a picture in their midst, at most `room` of them, and the picture: smooth, as photographs are, and
    smaller than `size`, so that a launch has padding."""
    text = [i for i in ids if i not in spec.placeholders][: max(_TEXT, min(len(ids), room // 4))]
    rows, grids = spec.rows, list[Grid]()
    if spec.picture:
        pixels = _smooth((1, 3, spec.picture, spec.picture))
    else:
        grids = [_grid(spec, size, size[0] * size[1] if spec.queries else room - len(text))]
        rows = spec.queries or grids[0][1] * grids[0][2] // spec.merge**2
        pixels = _smooth((grids[0][1] * grids[0][2], spec.channels * spec.frames * spec.patch**2))
    half = len(text) // 2
    shown = Pictures(pixels, tuple(grids), (False,) * len(grids), (0.0,) * len(grids))
    return [*text[:half], *[spec.image_token] * rows, *text[half:]], shown


def _grid(spec: VisionSpec, size: Size, rows: int) -> Grid:
    """The largest grid of the picture's shape of which a quarter of a launch stays free, and of at most `rows` rows."""
    high, wide = (pixels // spec.unit for pixels in size)
    fits = [n for n in range(1, high + 1) if n * max(1, n * wide // high) <= min(rows, max(1, high * wide * 3 // 4))]
    n = max(fits, default=1)
    return 1, n * spec.merge, max(1, n * wide // high) * spec.merge


def _smooth(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Values of about one, as pixels have when they are normalised, that change slowly."""
    generator = np.random.default_rng(0)
    steps = generator.normal(size=shape, scale=shape[-1] ** -0.5).cumsum(axis=-1)
    return np.asarray(steps + generator.normal(size=(*shape[:-1], 1)), np.float32)


def arguments(model: Any, pictures: Pictures, ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """What Hugging Face's model takes beside the ids of a prompt."""
    given, kinds = torch.tensor([list(ids)]), torch.zeros(1, len(ids), dtype=torch.int32)
    taken = inspect.signature(model.forward).parameters
    found: dict[str, torch.Tensor] = {n: kinds for n in ("mm_token_type_ids", "token_type_ids") if n in taken}
    if not pictures.grids:
        kinds[given == model.config.image_token_id] = 1
        return {**found, "pixel_values": torch.from_numpy(pictures.pixels)}
    if found:  # in the order in which they stand, since one token may stand for both (GLM-4.1V)
        tokens = torch.tensor([model.config.image_token_id, model.config.video_token_id])
        merged = model.config.vision_config.spatial_merge_size**2
        rows = [math.prod(grid) // merged for grid in pictures.grids]
        order = torch.tensor(pictures.videos, dtype=torch.int32) + 1
        kinds[torch.isin(given, tokens)] = order.repeat_interleave(torch.tensor(rows))
    for number, (kind, pixels) in enumerate((("image", "pixel_values"), ("video", "pixel_values_videos"))):
        of_kind = [one for one in pictures.each() if one.videos == (bool(number),)]
        if of_kind:
            found[pixels] = torch.from_numpy(np.concatenate([one.pixels for one in of_kind]))
            found[f"{kind}_grid_thw"] = torch.tensor([one.grids[0] for one in of_kind])
            if number and "second_per_grid_ts" in taken:
                found["second_per_grid_ts"] = torch.tensor([one.seconds[0] for one in of_kind])
    return found


def features(model: Any, pictures: Pictures) -> tuple[torch.Tensor, ...]:
    """What Hugging Face's tower and projector make of pictures (none of them a video), [rows, H] each."""
    grid = {"image_grid_thw": torch.tensor(pictures.grids)} if pictures.grids else {}
    out = model.base_model.get_image_features(pixel_values=torch.from_numpy(pictures.pixels), return_dict=True, **grid)
    return tuple(_joined(rows) for rows in (out.pooler_output, *(getattr(out, "deepstack_features", None) or ())))


def _joined(rows: Any) -> torch.Tensor:
    joined = torch.cat(list(rows)) if isinstance(rows, tuple | list) else rows
    return joined.reshape(-1, joined.shape[-1])


class Shown:
    """The reference's pictures through the tower. `torch_rows`, `onnx_rows`: its features, [rows, H] each output."""

    def __init__(self, decoder: Decoder, size: Size, truth: Reference, checkpoint: Checkpoint, folder: Path) -> None:
        spec = decoder.spec.vision
        assert spec is not None
        assert truth.pictures is not None
        self.truth, self.pictures, self.folder = truth, truth.pictures, folder
        self.tower, net = spec.tower(size, decoder.spec.axes), towers.vit(spec.geometry(size))
        positions = table.positions(checkpoint, decoder.spec) if spec.given else None
        self.launches = list(self.tower.launches(self.pictures, positions))
        ours = self._run(chain.torch_runner(decoder.tower(size, checkpoint), net))
        theirs = self._run(chain.onnx_runner(self.folder / f"{graphs.VIT}.onnx"))
        self.torch_rows, self.onnx_rows = self._rows(ours), self._rows(theirs)
        self.first = Call(self.launches[0][0], theirs[0]), self.launches[0][1]

    def _run(self, run: chain.Run) -> list[dict[str, Array]]:
        return [run(inputs) for inputs, _ in self.launches]

    def _rows(self, outputs: list[dict[str, Array]]) -> list[Array]:
        """The real rows of all launches, for each output."""
        real = [
            {name: rows.reshape(-1, rows.shape[-1])[:count] for name, rows in out.items()}
            for out, (_, count) in zip(outputs, self.launches, strict=True)
        ]
        return [np.concatenate([out[name] for out in real]) for name in real[0]]

    def positions(self) -> Array:
        """Of the prompt and the tokens behind it, [axes, T] int32."""
        prompt, later = self.truth.prompt, len(self.truth.forced)
        places, shift = self.tower.positions(prompt, self.pictures)
        steps = np.arange(len(prompt), len(prompt) + later, dtype=np.int32) + shift
        return np.concatenate([places, np.tile(steps, (len(places), 1))], axis=1)

    def distances(self) -> Iterator[tuple[str, float, float]]:
        """(rung, value, bar) of the tower's two lower rungs."""
        hf = [rows.numpy() for rows in self.truth.features]
        yield PATCHED, max(map(distance, hf, self.torch_rows)), MAX_ABS_PATCHED
        yield ONNX, max(map(distance, self.torch_rows, self.onnx_rows)), MAX_ABS_ONNX

    def unmask(self, mask: Array, past: int) -> None:
        """Lets a picture's rows see each other, in the mask [T, T] of a chunk behind `past` positions."""
        self.tower.unmask(mask, self.truth.prompt[past : past + len(mask)])

    def splice(self, number: int, chunks: list[Array], rows: list[Array], lengths: Sequence[int]) -> None:
        """The features `rows[number]` into the states [1, T, H] of a prompt's chunks: 0 in place of the placeholders'
        embeddings, deepstack features added to their states."""
        begin, used = 0, 0
        for chunk, length in zip(chunks, lengths, strict=True):
            places = np.flatnonzero(self.tower.placeholders(self.truth.prompt[begin : begin + length]))
            fresh = rows[number][used : used + len(places)]
            chunk[0, places] = fresh if number == 0 else chunk[0, places] + fresh
            begin, used = begin + length, used + len(places)

    def kept(self, geometry: Geometry) -> Iterator[tuple[str, Call, int]]:
        """(net, call, real rows) of the references for the chip."""
        yield graphs.VIT, *self.first
        if len(self.onnx_rows) > 1:
            net, generator = graphs.add(geometry), np.random.default_rng(0)
            given = {t.name: generator.normal(size=t.shape).astype(np.float32) for t in net.inputs}
            yield net.name, Call(given, chain.onnx_runner(self.folder / f"{net.name}.onnx")(given)), 0
