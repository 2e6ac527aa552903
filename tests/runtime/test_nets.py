from dataclasses import replace

import pytest

from contract import graphs
from contract.errors import UserError
from contract.graphs import GraphSpec, TensorSpec
from runtime.nets import Sizes, at_length, describe, sizes

GEOMETRY = graphs.Geometry(layers=2, hidden=32, kv_heads=2, head_dim=8, v_head_dim=8, vocab=100, seq_length=16)


def _nets(top1: bool = True) -> dict[str, GraphSpec]:
    return {net.name: net for net in graphs.decoder_graphs(GEOMETRY, top1)}


def _renamed(tensors: tuple[TensorSpec, ...]) -> list[TensorSpec]:
    return [replace(t, name=f"{t.name}_Add") for t in tensors]


@pytest.mark.parametrize("top1", [True, False])
def test_foreign_names_become_the_contracts_by_position(top1: bool) -> None:
    for net in _nets(top1).values():
        assert describe(net.name, _renamed(net.inputs), _renamed(net.outputs)) == net


def test_own_names_stay_in_the_files_order() -> None:
    net = _nets()["block_0"]
    described = describe("block_0", net.inputs[::-1], net.outputs)
    assert described.inputs == net.inputs[::-1]


def test_a_block_may_lack_the_mask() -> None:
    net = _nets()["block_0"]
    described = describe("block_0", _renamed(net.inputs[:2]), net.outputs)
    assert [t.name for t in described.inputs] == ["input_states", "position_ids"]
    assert sizes({**_nets(), "block_0": described}) == Sizes(2, 16, 16)


def test_unknown_nets_keep_their_names() -> None:
    tensors = [TensorSpec("x", (1,), "float32")]
    assert describe("block_x_0", tensors, tensors) == GraphSpec(
        "block_x_0", "block_x_0", None, tuple(tensors), tuple(tensors)
    )


def test_lengths_replace_the_sequence_and_nothing_else() -> None:
    shapes = at_length(graphs.block(replace(GEOMETRY, hidden=16), 0), 5)  # hidden size equal to the built length
    assert shapes == {"input_states": (1, 5, 16), "position_ids": (1, 5), "attention_mask": (1, 1, 5, 5)}
    geometry = replace(GEOMETRY, input_length=8)
    assert at_length(graphs.block_kv(geometry, 0), 5, past=11) == {
        **{"input_states": (1, 5, 32), "position_ids": (1, 5), "attention_mask": (1, 1, 5, 16)},
        **dict.fromkeys(("history_k", "history_v"), (1, 11, 2, 8)),
    }


def test_a_history_makes_prompts_as_long_as_the_sequence() -> None:
    geometry = replace(GEOMETRY, input_length=4)
    short, chunked = (
        sizes({net.name: net for net in graphs.decoder_graphs(geometry, True, history)}) for history in (False, True)
    )
    assert (short.prefill_length, short.prompt_length) == (4, 4)
    assert (chunked.prefill_length, chunked.prompt_length) == (4, 16)


def test_nets_that_cannot_talk_are_refused_by_name() -> None:
    nets = _nets()
    del nets["block_cache_1"]
    with pytest.raises(UserError, match="no net block_cache_1"):
        sizes(nets)
    with pytest.raises(UserError, match="no net embedding"):
        sizes({"vit": nets["block_0"]})
    mixed = graphs.lm_head(replace(GEOMETRY, half=graphs.FLOAT16), top1=True)
    with pytest.raises(UserError, match=r"disagree.*bfloat16, float16"):
        sizes({**_nets(), "lm_head": mixed})
    cache = _nets()["block_cache_0"]
    split = replace(cache, inputs=(*cache.inputs, TensorSpec("history_k_1", (1,), "bfloat16")))
    with pytest.raises(UserError, match="history_k_1"):
        sizes({**_nets(), "block_cache_0": split})
