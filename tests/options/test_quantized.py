"""AWQ, GPTQ and compressed-tensors checkpoints: read as what they stand for, and compiled on their own grid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import UserError
from exporters import grids, quantized
from exporters.checkpoint import Checkpoint
from exporters.plain import write
from tests.end_to_end.test_line import hf2bmodel, manifest
from tests.options import quantized_files
from tests.options.conftest import Made, cosines
from tests.options.quantized_files import AWQ, FORMATS, GPTQ

ON_GRID = [name for name, form in FORMATS.items() if not form.shuffled]
BLOCKS = ("block_0", "block_1", "block_cache_0", "block_cache_1")


@pytest.mark.parametrize("name", FORMATS)
def test_it_reads_as_what_it_stands_for(name: str, tmp_path: Path) -> None:
    truth = quantized_files.make(name, tmp_path / "checkpoint")
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    assert not [n for n in checkpoint.names() if "qweight" in n or "weight_packed" in n or "scale" in n]
    checkpoint.require(truth)
    for weight, value in truth.items():
        assert (checkpoint.dtype(weight), checkpoint.shape(weight)) == ("F32", value.shape)
        np.testing.assert_array_equal(checkpoint.read(weight), value)
    assert checkpoint.grid("model.norm.weight") is None
    assert checkpoint.out_of_order(next(iter(truth))) == FORMATS[name].shuffled


def test_zeros_of_v1_wrap_as_gptqmodel_lets_them() -> None:
    """A zero point of 0 is stored as -1, which borrows from the next field: one addition over the int32 undoes it."""
    zeros = np.array([[0, 5, 0, 0, 7, 15, 8, 0]], np.uint32)
    stored = sum(int(z) << (4 * i) for i, z in enumerate(zeros[0])) - 0x11111111
    tensors = {
        "m.qweight": np.zeros((8, 8), np.int32),
        "m.qzeros": np.array([[stored & 0xFFFFFFFF]], np.uint32).view(np.int32),
        "m.scales": np.ones((1, 8), np.float16),
    }

    class Held(dict[str, Any]):
        def raw(self, name: str) -> Any:
            return self[name]

    grid = quantized.LAYOUTS["gptq"].read(Held(tensors), "m", quantized.Scheme("gptq", 4, 64, v1=True))  # type: ignore[arg-type]
    np.testing.assert_array_equal(grid.zeros[:, 0], zeros[0])


@pytest.mark.toolchain
@pytest.mark.parametrize("name", ON_GRID)
def test_weights_are_the_checkpoints(name: str, made: Made, tmp_path: Path) -> None:
    """On the chip its blocks are as near to their float form as bf16 ones, where the compiler's own int4 is not."""
    quantized_files.make(name, tmp_path / name)
    folder = made(tmp_path / name, "--mode", f"int{FORMATS[name].bits}")
    found = manifest(folder)
    assert found["status"] == "verified", found["reason"]
    assert {net["quantize"] for n, net in found["nets"].items() if n in BLOCKS} == {"BF16"}
    scores = {s["net"]: s for s in found["parity"] if s["rung"] == "chip"}
    assert all(scores[net]["bar"] == 0.999 and scores[net]["passed"] for net in BLOCKS)
    group = 128 if FORMATS[name].per_row else quantized_files.GROUP
    assert f"q_group_size = {group}" in (folder / "work/block_0/block_0/final.mlir").read_text()
    assert found["options"]["group_size"] == group
    size = found["nets"]["block_cache_0"]["bytes"]
    if name == "awq":
        floats = write(Checkpoint(tmp_path / name), tmp_path / "floats")
        other = made(floats, "--mode", "int4", "--group-size", "64")
        requantised, kept = cosines(other), cosines(folder)
        print({net: (round(requantised[net], 5), round(kept[net], 5)) for net in BLOCKS})
        assert all(1 - kept[net] < (1 - requantised[net]) / 5 for net in BLOCKS)
        assert min(requantised[net] for net in BLOCKS) < 0.999
        assert size <= manifest(other)["nets"]["block_cache_0"]["bytes"]


@pytest.mark.toolchain
def test_other_modes_take_it_as_floats(made: Made, tmp_path: Path) -> None:
    quantized_files.make("gptq-act-order", tmp_path / "shuffled")
    assert manifest(made(tmp_path / "shuffled", "--mode", "bf16"))["status"] == "verified"


@pytest.mark.slow
def test_devices_do_not_share_a_grid(tmp_path: Path) -> None:
    quantized_files.make("awq", tmp_path / "checkpoint", num_key_value_heads=2, intermediate_size=33024)
    words = ("--model", str(tmp_path / "checkpoint"), "--seq-length", "96", "--devices", "2", "--plan")
    done = hf2bmodel("build", "qwen2-0.5b", *words, "--mode", "int4")
    told = "the compiler does not split layers that keep a quantised checkpoint's own grid; use 1, or MODE=bf16"
    assert (done.returncode, done.stderr) == (2, f"hf2bmodel: --devices: {told}\n")
    assert hf2bmodel("build", "qwen2-0.5b", *words, "--mode", "bf16").returncode == 0


@pytest.mark.toolchain
@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        (
            "gptq-act-order",
            ("--mode", "int4"),
            "its groups are no neighbouring channels (desc_act), which the chip's int4 cannot hold; use MODE=int8",
        ),
        (
            "awq",
            ("--mode", "int4", "--group-size", "32"),
            "--group-size: the checkpoint's weights lie in groups of 64;",
        ),
    ],
)
def test_it_is_refused_before_anything_runs(name: str, words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    quantized_files.make(name, tmp_path / "checkpoint")
    out = ("--out", str(tmp_path / "out"), "--group-size", "64")
    done = hf2bmodel("build", "qwen2-0.5b", "--model", str(tmp_path / "checkpoint"), "--seq-length", "96", *out, *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


CT = FORMATS["pack-quantized"].config


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"quant_method": "fp8"}, "quant_method 'fp8' is not read"),
        ({"quant_method": "bitsandbytes"}, "quant_method 'bitsandbytes' is not read"),
        ({**AWQ, "version": "gemv"}, "awq format 'gemv' is not read; take one in gemm"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "gptq format 'marlin' is not read; take one in gptq or gptq_v2"),
        ({**GPTQ, "bits": 3}, "weights of 3 bits are not read; take one of 4 or 8 bits"),
        ({"quant_method": "gptq", "bits": 4}, "quantization_config lacks 'group_size'"),
        ({**CT, "format": "naive-quantized"}, "compressed-tensors with format 'naive-quantized' is not read"),
        ({**CT, "config_groups": {**CT["config_groups"], "b": {}}}, "compressed-tensors with several config_groups"),
        ({**CT, "sparsity_config": {"format": "marlin-24"}}, "compressed-tensors with sparse weights is not read"),
    ],
)
def test_formats_that_are_not_read(config: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        quantized.read({"quantization_config": config}, "config.json")
    assert str(error.value).startswith(f"config.json: {told}")


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    quantized_files.make("awq", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.scales"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks the tensor model\.layers\.0\.mlp\.up_proj\.scales"):
        Checkpoint(tmp_path)
    shutil.rmtree(tmp_path)
    quantized_files.make("gptq", tmp_path)
    grids.check(Checkpoint(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"] == GPTQ
