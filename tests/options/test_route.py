"""ROUTE=llm_convert: the vendor's own converter in our folder, under our ladder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.prepare import Request, prepare
from compile import vendor
from compile.plan import settle
from compile.toolchain import Runner
from contract.errors import UserError
from exporters import sources
from exporters.quantized import Scheme
from tests import vision_models
from tests.compile.builds import recipe_and_spec, recipe_plan
from tests.end_to_end.test_line import hf2bmodel, manifest
from tests.end_to_end.test_zoo import PIXELS
from tests.options import quantized_files
from tests.options.conftest import Made, cosines

BY_VENDOR = ("--route", "llm_convert")
needs_parallel = pytest.mark.skipif(shutil.which("parallel") is None, reason="llm_convert needs GNU parallel")


@pytest.mark.toolchain
@needs_parallel
@pytest.mark.parametrize("mode", ["bf16", "int4"])
def test_same_folder_manifest_and_ladder(
    mode: str, made: Made, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    ours, theirs = made(checkpoint("qwen2"), "--mode", mode), made(checkpoint("qwen2"), "--mode", mode, *BY_VENDOR)
    assert theirs.name == ours.name + "_llm_convert"
    one, other = manifest(ours), manifest(theirs)
    assert (other["status"], other["reason"]) == ("verified", "")
    assert [(s["rung"], s["net"]) for s in one["parity"]] == [(s["rung"], s["net"]) for s in other["parity"]]
    assert one["nets"].keys() == other["nets"].keys()
    assert other["nets"]["lm_head"]["quantize"] == "BF16"
    assert other["options"]["route"] == "llm_convert"
    assert {p.name for p in ours.iterdir()} - {"work"} == {
        p.name.replace("_llm_convert", "") for p in theirs.iterdir()
    } - {"work"}
    assert all(other["nets"][net]["cycles"] for net in ("block_0", "block_cache_0", "lm_head"))
    again = hf2bmodel("build", str(recipe(tmp_path)), "--model", str(checkpoint("qwen2")), "--out", str(theirs.parent),
                      "--mode", mode, "--verify", "none", *BY_VENDOR)  # fmt: skip
    assert "up to date" in again.stderr


def recipe(folder: Path) -> Path:
    from tests.end_to_end.test_line import RECIPE

    (folder / "tiny.yaml").write_text(RECIPE.format(architecture="qwen2"))
    return folder / "tiny.yaml"


@pytest.mark.toolchain
@needs_parallel
@pytest.mark.parametrize("name", ["awq", "gptq", "pack-quantized"])
def test_quantised_checkpoints_as_they_are(name: str, made: Made, tmp_path: Path) -> None:
    """Against the floats that the checkpoint stands for, in float16 as the checkpoint says."""
    quantized_files.make(name, tmp_path / name, "qwen2-tied")
    folder = made(tmp_path / name, "--mode", "int4", *BY_VENDOR)
    found = manifest(folder)
    assert (found["status"], found["reason"]) == ("verified", "")
    assert found["nets"]["block_0"]["quantize"] == "W4F16"
    assert found["geometry"]["half"] == "float16"
    assert min(cosines(folder)[f"block_{i}"] for i in range(2)) > 0.999


@pytest.mark.toolchain
@needs_parallel
@pytest.mark.parametrize(
    ("name", "dtype", "mode"),
    [("qwen2_5_vl", "float16", "int4"), ("qwen2_vl", "bfloat16", "bf16"), ("qwen3_vl", "bfloat16", "bf16")],
)
def test_models_that_see(name: str, dtype: str, mode: str, made: Made, tmp_path: Path) -> None:
    """The first one's decoder in AWQ, beside a tower in float16."""
    checkpoint = vision_models.for_vendor(name, tmp_path / name, dtype)
    if mode == "int4":
        quantized_files.quantize("awq", checkpoint)
    folder = made(checkpoint, "--mode", mode, "--max-pixels", PIXELS[name], *BY_VENDOR)
    found = manifest(folder)
    assert (found["status"], found["reason"]) == ("verified", "")
    assert {s["rung"] for s in found["parity"] if s["net"] == "vit"} == {"patched", "onnx", "chip"}
    assert found["nets"]["vit"]["quantize"] == ("F16" if dtype == "float16" else "BF16")
    assert found["nets"]["vit"]["cycles"]
    assert found["model"]["tower"]["image_token"] > 0


def test_what_it_looks_for_in_config_json_is_named() -> None:
    config = {"model_type": "qwen2_5_vl", "vision_config": {"in_chans": 3}}
    vendor.check_config({**config, "rope_scaling": {"mrope_section": [16, 24, 24]}})
    vendor.check_config({**config, "text_config": {"rope_scaling": {"mrope_section": [16, 24, 24]}}})
    with pytest.raises(UserError, match=r"looks for rope_scaling\.mrope_section or text_config\.rope_scaling"):
        vendor.check_config(config)
    with pytest.raises(UserError, match=r"looks for vision_config\.in_chans in config\.json; add it, or leave out"):
        vendor.check_config({**config, "vision_config": {}})


def test_its_tower_has_heads_of_one_size() -> None:
    recipe, spec = recipe_and_spec("qwen2.5-vl-3b")
    assert spec.vision
    other = replace(spec, vision=replace(spec.vision, hidden=1024))
    options = settle(recipe, {"route": "llm_convert"})
    vendor.check(spec, options)
    with pytest.raises(UserError, match="it takes towers with heads of 80 only, not of 64"):
        vendor.check(other, options)


def test_one_step_converts_and_every_net_is_taken_from_it() -> None:
    plan = recipe_plan("qwen2.5-0.5b", route="llm_convert")
    steps = {step.name: step for step in plan.steps}
    assert not [name for name in steps if name.startswith("transform")]
    words = " ".join(steps["convert"].commands[0])
    assert words == ("llm_convert.py -m /models/qwen2.5-0.5b -s 512 -q w4bf16 -g 64 -c bm1684x -o made")
    assert steps["convert"].inputs == ("/models/qwen2.5-0.5b",)
    assert steps["block_3"].inputs == ("convert/",)
    assert "block_3/block_3.bmodel" in steps["convert"].outputs


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("falcon-7b", {}, "it builds no falcon for us, but chatglm, llama, phi3, qwen2, qwen2_5_vl, qwen2_vl"),
        ("qwen2.5-0.5b", {"devices": 2}, "its nets for several devices lack the final norm in lm_head"),
        ("qwen2.5-0.5b", {"head": "int8"}, "it keeps lm_head in 16 bits, whatever is asked for"),
        ("qwen2.5-0.5b", {"adapter": "/x"}, "it does not merge adapters"),
        ("qwen2.5-0.5b", {"input_length": 64}, "it has other forms of prefill"),
        ("qwen2.5-vl-3b", {"vit": "f16"}, "it keeps the tower in the checkpoint's 16 bits"),
        ("qwen2.5-vl-3b", {"dynamic_vit": True}, "its tower is static where its prefill is"),
    ],
)
def test_known_failures_are_refused(name: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_plan(name, route="llm_convert", **changes)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("scheme", "dtype", "mode", "told"),
    [
        (None, "float32", "int4", "it fails on float32 checkpoints"),
        (None, "bfloat16", "f16", "mixes types where mode f16 meets a bfloat16 checkpoint; use bf16, or leave out"),
        (None, "float16", "bf16", "mixes types where mode bf16 meets a float16 checkpoint; use f16, or leave out"),
        (Scheme("awq", 4, 128), "bfloat16", "int4", "it makes float16 nets of AWQ, whatever config.json says"),
        (Scheme("gptq", 4, 128), "float16", "int4", "it reads zero points of GPTQ's v2 format one too high"),
        (Scheme("gptq", 4, 0, True), "float16", "int4", "it was not seen to handle one scale per row"),
        (Scheme("awq", 4, 128), "float16", "int8", "--mode: llm_convert keeps the checkpoint's 4 bits; use int4"),
    ],
)
def test_known_failures_on_checkpoints(scheme: Scheme | None, dtype: str, mode: str, told: str) -> None:
    recipe, spec = recipe_and_spec("qwen2.5-0.5b")
    options = settle(recipe, {"route": "llm_convert", "mode": mode})
    with pytest.raises(UserError) as error:
        vendor.check_checkpoint(replace(spec, dtype=dtype), options, scheme)
    assert told in str(error.value)


@pytest.mark.toolchain
def test_channels_out_of_order_are_refused(tmp_path: Path) -> None:
    """It reads no g_idx, and would make other weights without a word."""
    quantized_files.make("gptq-act-order", tmp_path / "checkpoint", "qwen2-tied")
    words = ("--model", str(tmp_path / "checkpoint"), "--mode", "int4", "--out", str(tmp_path / "out"), *BY_VENDOR)
    done = hf2bmodel("build", str(recipe(tmp_path)), *words)
    assert done.returncode == 2
    assert "its groups are no neighbouring channels (desc_act)" in done.stderr


@pytest.mark.toolchain
def test_what_it_needs_is_told_behind_what_it_fails_on_and_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def require(runner: Runner) -> None:
        raise UserError("something is missing")

    monkeypatch.setattr(vendor, "require", require)
    monkeypatch.setattr(sources, "resolve", lambda *_: pytest.fail("fetched"))
    quantized_files.make("gptq-act-order", tmp_path / "checkpoint", "qwen2-tied")
    work = {"out": str(tmp_path / "out"), "mode": "int4", "route": "llm_convert"}
    for model, told in ((str(tmp_path / "checkpoint"), "desc_act"), ("someone/elsewhere", "something is missing")):
        with pytest.raises(UserError, match=told):
            prepare(Request(str(recipe(tmp_path)), {**work, "model": model}), print)


def test_what_it_needs_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendor.shutil, "which", lambda *_, **__: None)
    with pytest.raises(UserError, match="needs GNU parallel; install it"):
        vendor.require(Runner())
