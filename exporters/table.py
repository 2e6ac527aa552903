"""Tables as files beside the bmodel: the embedding, for a host that looks tokens up itself (contract.graphs), and a
tower's learned positions, for one that interpolates them (contract.towers)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contract.errors import UserError
from contract.graphs import EMBEDDING_FILE
from contract.towers import POSITIONS_FILE
from exporters.architecture import find
from exporters.bind import Array, Weight, assemble
from exporters.checkpoint import Checkpoint
from exporters.spec import DecoderSpec


def write(checkpoint: Checkpoint, spec: DecoderSpec, half: str, out: Path) -> None:
    """Rows [V, H] in `half`, rounded once, with the model's factor on embeddings in them: what a row says is what the
    first layer takes. UserError as in assemble, and for a value beyond the type's range."""
    name = f"{find(spec.model_type).embed}.weight"
    rows = assemble(checkpoint, Weight("table", (name,), (spec.vocab, spec.hidden)), "")
    if spec.embedding_scale != 1:
        rows = rows * np.float32(spec.embedding_scale)
    with np.errstate(over="ignore"):
        stored = rows.astype(half)  # bfloat16 is ml_dtypes', which exporters.checkpoint registers
    if not np.isfinite(stored).all():
        raise UserError(f"{name} has values beyond {half}", str(checkpoint.folder), "use another MODE, or EMBED=chip")
    stored.tofile(out / EMBEDDING_FILE)


def positions(checkpoint: Checkpoint, spec: DecoderSpec) -> Array:
    """The learned positions of a tower, float32 [1, H, side, side]."""
    vision, tower = find(spec.model_type).vision, spec.vision
    assert vision
    assert tower
    name, side = f"{vision.prefix}{vision.table}.weight", tower.table
    rows = assemble(checkpoint, Weight("positions", (name,), (side * side, tower.hidden)), "")
    return np.ascontiguousarray(rows.T).reshape(1, tower.hidden, side, side)


def write_positions(checkpoint: Checkpoint, spec: DecoderSpec, out: Path) -> None:
    np.save(out / POSITIONS_FILE, positions(checkpoint, spec), allow_pickle=False)
