"""What a command has no more use for goes while it runs, and nothing before its time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from compile.spent import swept


@pytest.mark.parametrize(
    ("spent", "kept", "since", "stays"),
    [
        ("block_0_bm1684x_bf16_tpu_weights.npz", "block_0_tpu_addressed_weight.npz", "block_0_final.mlir", False),
        ("block_opt.onnx", "block_top_f32_all_origin_weight.npz", "block_origin.mlir", True),
        ("vit_external_data", "vit_top_f32_all_origin_weight.npz", "vit_origin.mlir", True),
    ],
)
def test_weights_go_when_they_stand_elsewhere(spent: str, kept: str, since: str, stays: bool, tmp_path: Path) -> None:
    """`stays`: without its bytes, since the tool removes it and does not expect anybody else to."""
    first, placed, final = tmp_path / spent, tmp_path / kept, tmp_path / since
    with swept(tmp_path):
        for path in (first, placed, final):
            path.write_text("" if path == final else "weights")
        time.sleep(0.2)
        assert first.read_text() == "weights"  # the MLIR is not written yet
        final.write_text("module {}")
        deadline = time.monotonic() + 10
        while first.exists() and first.stat().st_size and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert first.exists() == stays
    assert [path.read_text() for path in (first, placed, final)[not stays :]] == [""] * stays + ["weights", "module {}"]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_file_that_goes_meanwhile_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "block_0_final.mlir").symlink_to("gone")  # it is listed, and cannot be looked at
    with swept(tmp_path):
        time.sleep(0.2)
