import numpy as np
import pytest
import torch

from contract.graphs import BFLOAT16, FLOAT16, FLOAT32, INT32, MASKED
from runtime.half import from_storage, to_storage


@pytest.fixture(scope="module")
def floats() -> np.ndarray:
    """Every exponent, random mantissas, both signs; all exact ties between bfloat16 neighbours among them."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    ties = (rng.integers(0, 2**16, 50_000, dtype=np.uint64).astype(np.uint32) << 16) | 0x8000
    return np.concatenate([bits, ties, np.array([0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F7FFFFF], np.uint32)]).view(
        np.float32
    )


@pytest.mark.parametrize(("dtype", "theirs"), [(BFLOAT16, torch.bfloat16), (FLOAT16, torch.float16)])
def test_rounds_as_torch_does(floats: np.ndarray, dtype: str, theirs: torch.dtype) -> None:
    ours = from_storage(to_storage(floats, dtype), dtype)
    np.testing.assert_array_equal(ours, torch.from_numpy(floats.copy()).to(theirs).float().numpy())
    assert ours.dtype == np.float32


def test_storage_has_the_bytes_of_the_chip() -> None:
    assert to_storage(np.array([1.0, MASKED]), BFLOAT16).tobytes() == bytes.fromhex("803f1cc6")
    assert to_storage(np.array([1.0, MASKED]), FLOAT16).view(np.uint16).tolist() == [0x3C00, 0xF0E2]


def test_wide_types_pass_unchanged() -> None:
    assert to_storage(np.array([[3, 4]], np.int64).T, INT32).flags.c_contiguous
    exact = np.array([0.1], np.float32)
    assert from_storage(to_storage(exact, FLOAT32), FLOAT32) == exact
