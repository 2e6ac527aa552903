"""ADAPTER: a LoRA adapter, as peft saves it, merged into the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import UserError
from exporters.checkpoint import Checkpoint
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import hf2bmodel, manifest
from tests.options.conftest import Made

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
CASES: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": [*ATTENTION, "gate_proj", "down_proj"]},
    "root": {"target_modules": ATTENTION, "use_rslora": True},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8},
        "alpha_pattern": {"q_proj": 5, r"^model\.layers\.0\.mlp\.down_proj": 32},
    },
    "dora": {"target_modules": ATTENTION, "use_dora": True},
    "one layer": {"target_modules": ATTENTION, "layers_to_transform": [1]},
    "embedding": {"target_modules": ["embed_tokens", "lm_head"]},
    "whole modules": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"], "bias": "lora_only"},
}


def make(base: Path, folder: Path, **settings: Any) -> Any:
    """Write a random adapter for the model in `base`; the model with the adapter merged, by peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(**{"r": 4, "lora_alpha": 12, "task_type": "CAUSAL_LM", **settings})
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload()


@pytest.mark.parametrize("case", CASES)
def test_the_merged_tensors_are_pefts(case: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    base = checkpoint("qwen2")
    merged = make(base, tmp_path / "adapter", **CASES[case]).state_dict()
    plain, adapted = Checkpoint(base), Checkpoint(base, tmp_path / "adapter")
    assert adapted.names() == plain.names()
    changed = 0
    for name in plain.names():
        found = adapted.read(name)
        np.testing.assert_allclose(found, merged[name].numpy(), rtol=1e-5, atol=1e-6)
        changed += not np.array_equal(found, plain.read(name))
    assert changed >= 2


@pytest.mark.toolchain
@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_tokens_are_hugging_faces_with_peft(
    name: str, made: Made, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The lowest rung compares with peft's own layers over the unpatched model, the highest one tokens with theirs."""
    base = checkpoint(name)
    make(base, tmp_path / "tales", **CASES["plain"])
    without, folder = made(base, "--mode", "bf16"), made(base, "--mode", "bf16", "--adapter", str(tmp_path / "tales"))
    assert folder.name == without.name + "_adapter-tales"
    found = manifest(folder)
    assert (found["status"], found["reason"]) == ("verified", "")
    assert {s["rung"] for s in found["parity"]} == {"patched", "onnx", "chip", "tokens"}
    expected = [
        json.loads((f / "work/parity/reference/tokens.json").read_text())["expected"] for f in (folder, without)
    ]
    assert expected[0] != expected[1]
    assert found["inputs"]["files"].keys() > {"adapter/adapter_model.safetensors", "adapter/adapter_config.json"}


@pytest.mark.toolchain
def test_another_adapter_binds_anew_and_traces_not(
    made: Made, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    base, words = checkpoint("qwen2"), ("--mode", "bf16", "--verify", "none", "--adapter", str(tmp_path / "adapter"))
    make(base, tmp_path / "adapter", target_modules=ATTENTION, layers_to_transform=[1])
    folder = made(base, *words)
    first = {name: identity(folder, name) for name in ("trace", "bind.layer_1", "block_0", "block_1")}
    make(base, tmp_path / "adapter", target_modules=ATTENTION, layers_to_transform=[1], lora_alpha=20)
    assert made(base, *words) == folder
    second = {name: identity(folder, name) for name in first}
    assert {name for name in first if first[name] != second[name]} == {"bind.layer_1", "block_1"}


def identity(folder: Path, step: str) -> str:
    return str(json.loads((folder / "work" / step / "step.json").read_text())["identity"])


def test_plan_and_name() -> None:
    plan = recipe_plan("qwen2.5-0.5b", adapter="/models/my tales/v1+x")
    assert plan.folder.name == "qwen2.5-0.5b_int4_seq512_bm1684x_1dev_adapter-v1-x"
    told = {step.name for step in plan.steps if "/models/my tales/v1+x" in step.inputs}
    assert told == {"parity", "bind.embedding", "bind.head", *(f"bind.layer_{i}" for i in range(24))}
    for step in plan.steps:
        assert ("--adapter" in step.commands[0]) == (step.name in told)


def damaged(folder: Path, settings: dict[str, Any], rename: tuple[str, str] | None = None) -> Path:
    from safetensors.numpy import load_file, save_file

    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    if rename:
        tensors = load_file(folder / "adapter_model.safetensors")
        save_file({k.replace(*rename): v for k, v in tensors.items()}, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("settings", "rename", "told"),
    [
        ({"peft_type": "IA3"}, None, "peft_type IA3 is not merged; merge it with peft"),
        ({"init_lora_weights": "pissa_niter_4"}, None, "init_lora_weights=pissa_niter_4 is not merged"),
        ({"layer_replication": [[0, 2]]}, None, "layer_replication is not merged"),
        ({"use_qalora": True}, None, "use_qalora is not merged"),
        ({}, ("lora_B.weight", "lora_C.weight"), "_proj.lora_C.weight, which is not merged"),
        ({}, ("layers.1", "layers.7"), "_proj.weight, which the checkpoint has not"),
        ({"fan_in_fan_out": True}, None, "is [64, 128] in the checkpoint and [128, 64] in the adapter"),
    ],
)
def test_what_is_not_merged_is_named(
    settings: dict[str, Any],
    rename: tuple[str, str] | None,
    told: str,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    make(checkpoint("qwen2"), tmp_path, target_modules=["q_proj", "k_proj"])
    with pytest.raises(UserError) as error:
        Checkpoint(checkpoint("qwen2"), damaged(tmp_path, settings, rename))
    assert told in str(error.value)


def test_an_embedding_that_is_the_head_as_well_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    base = checkpoint("qwen2-tied")
    make(base, tmp_path, target_modules=["embed_tokens"])
    with pytest.raises(UserError, match=r"embed_tokens\.weight, which stands for embedding and head at once"):
        Checkpoint(base, tmp_path)


def test_bad_values_get_one_line(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    for folder, told in (
        (tmp_path / "none", "no such directory; name the folder that holds adapter_config.json"),
        (tmp_path, "has no adapter_config.json; name the folder that peft's save_pretrained made"),
    ):
        words = ("--model", str(checkpoint("qwen2")), "--adapter", str(folder), "--out", str(tmp_path / "out"))
        done = hf2bmodel("build", "qwen2-0.5b", *words)
        assert done.returncode == 2
        assert done.stderr.strip().splitlines() == [f"hf2bmodel: {folder}: {told}"]
    assert not (tmp_path / "out").exists()
