"""The compiler's flags per kind of net."""

from __future__ import annotations

import pytest

from compile import deploy
from contract import graphs

GEOMETRY = graphs.Geometry(layers=2, hidden=64, kv_heads=2, head_dim=16, v_head_dim=16, vocab=100, seq_length=32)
NETS = {net.name: net for net in graphs.decoder_graphs(GEOMETRY, top1=False)}


def flags(net: str, quantize: str, chip: str = "bm1684x", devices: int = 1) -> str:
    return " ".join(deploy.deploy(NETS[net], quantize, deploy.Target(chip, devices, 32)))


ENDS, LEFT = "--quant_input --quant_output", "--num_core 1 --num_device 2"


# As the vendor's llm_convert calls it for each net.
@pytest.mark.parametrize(
    ("net", "quantize", "expected"),
    [
        ("embedding", "BF16", f"--quantize BF16 {ENDS} {LEFT} --addr_mode basic"),
        ("embedding_cache", "F16", f"--quantize F16 {ENDS} {LEFT} --addr_mode basic"),
        ("block_0", "W4BF16", f"--quantize W4BF16 --q_group_size 32 {ENDS} {LEFT} --addr_mode basic"),
        ("block_1", "BF16", f"--quantize BF16 {ENDS} {LEFT} --addr_mode basic"),
        ("block_cache_1", "W8F16", f"--quantize W8F16 --q_group_size 32 {ENDS} {LEFT} --addr_mode io_alone"),
        ("lm_head", "W8BF16", f"--quantize W8BF16 --q_group_size 32 --quant_input {LEFT} --addr_mode basic"),
        ("greedy_head", "F32", "--quantize F32 --addr_mode io_alone"),
        ("sample_head", "F32", "--quantize F32 --addr_mode io_alone --dynamic"),
    ],
)
def test_flags(net: str, quantize: str, expected: str) -> None:
    start = f"model_deploy.py --mlir {net}.mlir --model {net}.bmodel --chip bm1684x"
    assert flags(net, quantize, devices=2) == f"{start} {expected} --high_precision --disable_gdma_check"


def test_all_cores_of_a_chip_work() -> None:
    assert "--num_core 2 --num_device 1" in flags("block_0", "BF16", "bm1688")


def test_nets_that_bring_weights_come_first() -> None:
    order = [net.name for net in deploy.combine_order(tuple(NETS.values()))]
    assert order == [
        *("embedding", "block_cache_0", "block_cache_1", "lm_head", "greedy_head", "sample_head"),
        *("embedding_cache", "block_0", "block_1"),
    ]
