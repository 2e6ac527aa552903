"""What a command has no more use for goes while it runs, and nothing before its time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from compile.spent import swept


def test_weights_go_when_they_have_their_place(tmp_path: Path) -> None:
    first, placed = tmp_path / "block_0_bm1684x_bf16_tpu_weights.npz", tmp_path / "block_0_tpu_addressed_weight.npz"
    final = tmp_path / "block_0_final.mlir"
    with swept(tmp_path):
        for path in (first, placed, final):
            path.touch()
        time.sleep(0.2)
        assert first.exists()  # the MLIR is not written yet
        final.write_text("module {}")
        deadline = time.monotonic() + 10
        while first.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert sorted(tmp_path.iterdir()) == [final, placed]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_file_that_goes_meanwhile_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "block_0_final.mlir").symlink_to("gone")  # it is listed, and cannot be looked at
    with swept(tmp_path):
        time.sleep(0.2)
