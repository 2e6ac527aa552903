"""Cycles from a deploy step's files, in the forms that tpu-mlir 1.30.2 writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from compile import profile

# (<stage>, <device>) of each part of a net, as in <net>/final.mlir; a part without a count is dynamic.
SPLIT = [(0, 0), (1, 0), (1, 1), (2, 0)]


def deployed(folder: Path, parts: list[tuple[str, str]], *profiles: str) -> Path:
    """`parts`: module name and run mode of each."""
    net = folder / "lm_head"
    (net / "lm_head").mkdir(parents=True)
    mlir = ["module @lm_head attributes {module.devices = 2 : i64} {"]
    for module, mode in parts:
        mlir.append(f"  module @{module} attributes {{module.device_id = 0 : i64}} {{")
        mlir.append(f"    func.func @subfunc_0() attributes {{id = 0 : i64, mode = #tpu<run_mode TPU_{mode}>}} {{")
    (net / "lm_head" / "final.mlir").write_text("\n".join(mlir))
    for number, text in enumerate(profiles):
        (net / f"compiler_profile_{number}.txt").write_text(text)
    return net


def listing(*counts: int) -> str:
    return "".join(f"MatMul|s:0|e:5|t:6\n---\nTCYC : {count}\nDDR BW USAGE : 40.6%\n" for count in counts)


def test_one_device(tmp_path: Path) -> None:
    net = deployed(tmp_path, [("lm_head", "STATIC")], f"API_END total_cycle:77|b:1\n{listing(2175572)}")
    assert (profile.cycles(net, 1), profile.uncounted(net)) == (2175572, 0)


def test_the_slowest_device_of_each_stage_counts(tmp_path: Path) -> None:
    parts = [(f"lm_head_{stage}_{device}", "STATIC") for stage, device in SPLIT]
    net = deployed(tmp_path, parts, listing(1703, 1308352, 1303539, 14))
    assert profile.cycles(net, 2) == 1703 + 1308352 + 14


def test_a_device_with_two_parts_does_them_in_turn(tmp_path: Path) -> None:
    parts = [
        ("lm_head_0_0", "STATIC"),
        ("lm_head_0_0", "DYNAMIC"),
        ("lm_head_0_1", "STATIC"),
        ("lm_head_0_1", "STATIC"),
    ]
    net = deployed(tmp_path, parts, listing(100, 70, 50))
    assert (profile.cycles(net, 2), profile.uncounted(net)) == (120, 1)


def test_a_net_that_every_device_repeats_counts_once(tmp_path: Path) -> None:
    net = deployed(tmp_path, [("lm_head", "STATIC")], listing(16691, 16691))
    assert profile.cycles(net, 2) == 16691


def test_cores_write_a_file_each(tmp_path: Path) -> None:
    files = [f"TCYC : 225025. (bdc_cycle:{n}, gdma_cycle:9)\n" for n in (102861, 97003)]
    net = deployed(tmp_path, [("lm_head", "STATIC")], *files)
    assert profile.cycles(net, 1) == 225025


@pytest.mark.parametrize("profiles", [[], [""]])
def test_a_dynamic_net_has_no_count(tmp_path: Path, profiles: list[str]) -> None:
    net = deployed(tmp_path, [("lm_head", "DYNAMIC")], *profiles)
    assert (profile.cycles(net, 1), profile.uncounted(net)) == (None, 1)
