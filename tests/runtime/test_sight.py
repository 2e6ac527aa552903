"""The learned positions that lie beside a bmodel whose tower takes them as the host interpolates them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contract.errors import UserError
from contract.towers import POSITIONS_FILE
from contract.vision import Tower
from exporters import spec, table
from exporters.checkpoint import Checkpoint
from runtime.sight import learned
from tests import vision_models

SIDE = 5


def test_a_missing_or_other_file_is_told(tmp_path: Path) -> None:
    tower = Tower(48, 2, 12, 1, table=SIDE, given=True)
    with pytest.raises(UserError, match=f"needs its {POSITIONS_FILE} beside it"):
        learned(tmp_path / "a.bmodel", tower)
    (tmp_path / POSITIONS_FILE).write_bytes(b"no array")
    with pytest.raises(UserError, match="no learned positions"):
        learned(tmp_path / "a.bmodel", tower)
    np.save(tmp_path / POSITIONS_FILE, np.zeros((1, 8, SIDE + 1, SIDE), np.float32))
    with pytest.raises(UserError, match=r"float32 \[1, 8, 6, 5\], where 5 x 5 float32 are needed"):
        learned(tmp_path / "a.bmodel", tower)


def test_it_is_the_checkpoints_in_the_vendors_form(tmp_path: Path) -> None:
    """llm_convert: transposed, [1, H, side, side]."""
    checkpoint = vision_models.bare("glm4v", tmp_path / "checkpoint")
    read = spec.read(checkpoint)
    assert read.vision
    table.write_positions(Checkpoint(checkpoint), read, tmp_path)
    rows = Checkpoint(checkpoint).read("model.visual.embeddings.position_embedding.weight")
    found = learned(tmp_path / "a.bmodel", read.vision.tower((112, 168), 3))
    assert found.shape == (1, read.vision.hidden, SIDE, SIDE)
    np.testing.assert_array_equal(found[0, :, 1, 3], rows[SIDE + 3])
