"""The embedding of a bmodel that has no nets for it: its table is a file, mapped into memory, and looked up here.

Made by EMBED=disk, or by llm_convert --embedding_disk, which puts it into `config/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from contract import graphs
from contract.errors import UserError
from contract.graphs import Geometry, GraphSpec
from runtime.half import STORAGE, Array


class Table:
    """`nets`: those that it stands for, with the contract's names. `rows`: token ids that it takes."""

    def __init__(self, path: Path, block: GraphSpec, batch: int = 1) -> None:
        """`block`: the first layer's prefill net. `batch`: conversations of a decode step. UserError for a file that is
        not of its width."""
        states = block.inputs[0]
        _, length, hidden = states.shape
        size, row = path.stat().st_size, hidden * np.dtype(STORAGE[states.dtype]).itemsize
        if not size or size % row:
            what = f"{size} bytes are not rows of {hidden} values in {states.dtype}"
            raise UserError(what, str(path), "take the one that was made with the bmodel")
        self.rows = size // row
        self._table = np.memmap(path, STORAGE[states.dtype], "r", shape=(self.rows, hidden))
        geometry = Geometry(1, hidden, 1, 1, 1, self.rows, length, states.dtype, batch=batch)
        self.nets = {net.name: net for net in graphs.embeddings(geometry)}

    def states(self, ids: Array) -> Array:
        """Token ids, int32 of any shape and below `rows`, to hidden states [*shape, H] in storage type."""
        return np.asarray(self._table[ids])


def find(bmodel: Path, nets: Mapping[str, GraphSpec]) -> Table | None:
    """None where `nets`, the bmodel's own, look up by themselves or take no tokens, or where there is no file."""
    block, step = (nets.get(name) for name in (graphs.block_name(0), graphs.block_cache_name(0)))
    if block is None or step is None or graphs.EMBEDDING in nets:
        return None
    places = (bmodel.parent / graphs.EMBEDDING_FILE, bmodel.parent / "config" / graphs.EMBEDDING_FILE)
    return next((Table(path, block, step.inputs[0].shape[0]) for path in places if path.is_file()), None)
