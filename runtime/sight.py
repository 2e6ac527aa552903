"""What a session needs to know of pictures: their features, by the bmodel's tower, and the positions around them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contract import graphs
from contract.errors import UserError
from contract.towers import POSITIONS_FILE
from contract.vision import Pictures, Tower
from runtime.decoder import Shown
from runtime.half import Array

if TYPE_CHECKING:
    from runtime.engine import Engine

_KEPT = 8  # pictures whose features are remembered: in a conversation, every turn shows the earlier ones again


class Sight:
    """Of one session. A bmodel without a tower sees nothing, and takes no pictures."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._tower = engine, engine.tower
        self._table = learned(engine.bmodel, self._tower) if self._tower and self._tower.given else None
        self._known: OrderedDict[str, list[Array]] = OrderedDict()

    def positions(self, ids: Sequence[int], pictures: Pictures | None, limit: int) -> tuple[Array, int]:
        """[axes, T] int32 for the prompt `ids`, and what is added to a later length to get its position. UserError
        where they do not fit."""
        if pictures is not None and self._tower is None:
            raise UserError("this bmodel sees no pictures", self._engine.bmodel.name, "leave them out")
        if self._tower is None:
            return np.arange(len(ids), dtype=np.int32)[None], 0
        self._check_places(ids, pictures)
        places, shift = self._tower.positions(ids, pictures)
        self.check(places, limit)
        return places, shift

    def check(self, positions: Sequence[int] | Array, limit: int) -> None:
        """UserError for a position that the nets' tables do not have: those of a video run ahead of its length."""
        if (most := int(np.max(positions))) >= limit:
            what = f"a video reaches position {most}, and this bmodel has {limit}"
            raise UserError(what, self._engine.bmodel.name, "show fewer frames, or build with a larger SEQ")

    def _check_places(self, ids: Sequence[int], pictures: Pictures | None) -> None:
        assert self._tower
        places = int(self._tower.placeholders(ids).sum())
        rows = sum(self._rows(pictures)) if pictures is not None else 0
        if places != rows:
            what = f"the prompt has {places} places for pictures, and those given fill {rows}"
            raise UserError(what, self._engine.bmodel.name, "prepare the prompt with the pictures that it shows")

    def common(self, ids: Sequence[int], pictures: Pictures, seen: Sequence[str]) -> int:
        """How many of `ids` show nothing but what was `seen`, digests of the pictures so far."""
        assert self._tower
        same = next((i for i, (a, b) in enumerate(zip(pictures.digests, seen, strict=False)) if a != b), len(seen))
        shown = np.flatnonzero(self._tower.placeholders(ids))
        rows = sum(self._rows(pictures)[:same])
        return int(shown[rows]) if rows < len(shown) else len(ids)

    def _rows(self, pictures: Pictures) -> list[int]:
        """Feature rows of each picture."""
        assert self._tower
        if not pictures.grids:
            return [self._tower.rows] * len(pictures.pixels)
        return [self._tower.rows_of(grid) for grid in pictures.grids]

    def shown(self, ids: Sequence[int], past: int, pictures: Pictures | None) -> Shown | None:
        """What `ids` behind the first `past` show."""
        if pictures is None or self._tower is None:
            return None
        each = [self._features(one, digest) for one, digest in zip(pictures.each(), pictures.digests, strict=True)]
        places = np.flatnonzero(self._tower.placeholders(ids))
        features = [np.concatenate(parts)[places >= past] for parts in zip(*each, strict=True)]
        return Shown(features, places[places >= past] - past, self._tower.together)

    def _features(self, picture: Pictures, digest: str) -> list[Array]:
        """Of one picture, [rows, H] for each output of the tower."""
        assert self._tower
        if digest not in self._known:
            outputs = []
            for inputs, rows in self._tower.launches(picture, self._table):
                found = self._engine.run(graphs.VIT, inputs)
                outputs.append([values.reshape(-1, values.shape[-1])[:rows] for values in found.values()])
            self._known[digest] = [np.concatenate(parts) for parts in zip(*outputs, strict=True)]
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(digest)
        return self._known[digest]


def learned(bmodel: Path, tower: Tower) -> Array:
    """The positions that the host interpolates for `tower`, float32 [1, H, side, side]: of the file beside the bmodel,
    mapped into memory. UserError where there is none, or another."""
    path, side = bmodel.parent / POSITIONS_FILE, tower.table
    if not path.is_file():
        what = f"a model that sees as this one does needs its {POSITIONS_FILE} beside it"
        raise UserError(what, str(bmodel), "take the one that was made with the bmodel")
    try:
        table: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        if table.ndim != 4 or table.shape[2:] != (side, side) or table.dtype != np.float32:
            raise ValueError(f"{table.dtype} {list(table.shape)}, where {side} x {side} float32 are needed")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"no learned positions ({error})", str(path), "take the one made with the bmodel") from error
    return table
