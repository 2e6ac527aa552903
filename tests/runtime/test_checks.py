import numpy as np
import pytest

from contract import graphs
from contract.errors import UserError
from runtime import checks

GEOMETRY = graphs.Geometry(layers=1, hidden=4, kv_heads=1, head_dim=2, v_head_dim=2, vocab=10, seq_length=3)
BLOCK = graphs.block(GEOMETRY, 0)


def _inputs() -> dict[str, np.ndarray]:
    return {t.name: np.zeros(t.shape, np.int64 if t.dtype == graphs.INT32 else np.float64) for t in BLOCK.inputs}


def test_what_fits_passes() -> None:
    assert checks.inputs(BLOCK, _inputs(), 10, 3).keys() == _inputs().keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_ids": None}, "'position_ids' is missing"),
        ({"history_k": np.zeros(1)}, "'history_k' is not an input"),
        ({"input_states": np.zeros((1, 4, 4))}, r"block_0, input_states: shape \[1, 4, 4\] is not \[1, 3, 4\]"),
        ({"input_states": np.zeros((1, 3, 4), np.int32)}, "type int32 does not fit bfloat16"),
        ({"position_ids": np.zeros((1, 3))}, "type float64 does not fit int32"),
        ({"position_ids": np.array([[0, 1, 3]])}, "value 3 is out of range; use 0 to 2"),
        ({"position_ids": np.array([[0, -1, 2]])}, "value -1 is out of range"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, np.ndarray | None], message: str) -> None:
    given = {name: values for name, values in {**_inputs(), **change}.items() if values is not None}
    with pytest.raises(UserError, match=message):
        checks.inputs(BLOCK, given, 10, 3)


def test_a_mask_is_spare_where_it_is_built_in() -> None:
    dynamic = graphs.GraphSpec(BLOCK.name, BLOCK.kind, 0, BLOCK.inputs[:2], BLOCK.outputs)
    assert checks.inputs(dynamic, _inputs(), None, None).keys() == {"input_states", "position_ids"}


def test_unbounded_integers_must_still_fit_32_bits() -> None:
    with pytest.raises(UserError, match="value 2147483648 is out of range"):
        checks.inputs(BLOCK, {**_inputs(), "position_ids": np.full((1, 3), 2**31)}, None, None)


@pytest.mark.parametrize("top_k", [0, 51])
def test_the_sampler_on_the_chip_takes_no_more_than_its_outputs_hold(top_k: int) -> None:
    net = graphs.sample_head(graphs.Geometry(1, 4, 1, 2, 2, vocab=90, seq_length=3))
    given = {t.name: np.ones(t.shape, np.int32 if t.dtype == graphs.INT32 else np.float32) for t in net.inputs}
    checks.inputs(net, given, 90, 3)
    with pytest.raises(UserError, match=f"top_k: value {top_k} is out of range; use 1 to 50"):
        checks.inputs(net, {**given, "top_k": np.array([top_k])}, 90, 3)


@pytest.mark.parametrize("ids", [[], [1.5], [[1]], "text", [10], [-1], [2**40]])
def test_token_ids_are_integers_within_the_vocabulary(ids: object) -> None:
    with pytest.raises(UserError):
        checks.token_ids(ids, 10, "here")
    assert checks.token_ids(np.array([0, 9]), 10, "here") == [0, 9]
