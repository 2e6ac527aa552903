"""CHIP: the chips beside bm1684x and bm1688, each as far as it can be run here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.errors import UserError
from contract.modes import CHIPS
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import hf2bmodel, manifest
from tests.options.conftest import Made

RUNGS = ["chip", "onnx", "patched", "tokens"]


@pytest.mark.parametrize(("chip", "cores"), [("cv186x", 1), ("bm1684x2", 4), ("bm1690", 8)])
def test_a_net_is_compiled_for_all_cores(chip: str, cores: int) -> None:
    plan = recipe_plan("qwen2.5-0.5b", chip=chip, mode="bf16")
    assert plan.folder.name == f"qwen2.5-0.5b_bf16_seq512_{chip}_1dev"
    (deploy,) = (c for step in plan.steps if step.name == "block_0" for c in step.commands if c[0] == "model_deploy.py")
    assert f"--chip {chip} " in " ".join(deploy)
    assert f"--num_core {cores} " in " ".join(deploy)


def test_groups_that_leave_cores_of_bm1690_idle_are_refused() -> None:
    """As measured with single matmuls: 512 and 1000 outputs compile; 64 to 500, 576, 640, 896 and 1152 crash."""
    assert recipe_plan("llama2-7b", chip="bm1690", mode="int4").steps  # 4096, 11008, 12288 and 32000
    for mode in ("int4", "int8"):
        with pytest.raises(UserError) as error:
            recipe_plan("qwen2.5-0.5b", chip="bm1690", mode=mode)
        assert str(error.value) == (
            "--mode: the width of q, k and v (1152) cannot be shared evenly by the 8 cores of bm1690 in mode "
            f"{mode}; use MODE=bf16 or f16"
        )


@pytest.mark.toolchain
@pytest.mark.parametrize(("chip", "mode"), [("cv186x", "int4"), ("bm1684x2", "bf16")])
def test_chips_with_a_simulator_climb_the_ladder(
    chip: str, mode: str, made: Made, checkpoint: Callable[[str], Path]
) -> None:
    found = manifest(made(checkpoint("qwen2"), "--chip", chip, "--mode", mode))
    assert (found["status"], found["reason"]) == ("verified", "")
    assert sorted({score["rung"] for score in found["parity"]}) == RUNGS
    assert all(net["bytes"] for net in found["nets"].values())


@pytest.mark.toolchain
def test_bm1690_is_compiled_and_said_not_to_be_run(made: Made, talking_checkpoint: Path) -> None:
    folder = made(talking_checkpoint, "--chip", "bm1690", "--mode", "bf16")
    found = manifest(folder)
    assert CHIPS["bm1690"].simulator is None
    assert found["status"] == "unverified"
    assert found["reason"] == (
        "the bmodel itself was not run: the tpu-mlir wheel has no simulator of bm1690 that takes a board's calls"
    )
    assert sorted({score["rung"] for score in found["parity"]}) == ["onnx", "patched"]
    assert len(found["nets"]) == 9
    assert "no simulator of bm1690" in (folder / "report.html").read_text()
    done = hf2bmodel("verify", str(folder), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["reason"] == found["reason"]
    assert done.stderr.count("no simulator of bm1690") == 1
    done = hf2bmodel("generate", str(folder), "--prompt", "x", "--raw")
    assert done.returncode == 2
    assert "no simulator of bm1690" in done.stderr
    assert done.stderr.count("\n") == 1
