"""LORA: adapters that are put into a running bmodel, and taken out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from contract.errors import UserError
from exporters import lora, spec
from runtime.engine import Engine
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import manifest
from tests.options.conftest import Checkpoint, Made
from tests.options.conversations import CHIP, NEAR_TIE, answer, assert_same, ids
from tests.options.test_adapter import ATTENTION, make
from tests.runtime.conftest import bmodel_in

MODULES = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


@pytest.mark.toolchain
def test_tokens_are_those_of_hugging_face_with_peft(made: Made, checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = checkpoint("qwen2")
    folder = made(base, "--mode", "bf16", "--lora", "8")
    assert manifest(folder)["status"] == "verified"
    assert folder.name.endswith("_lora8")
    model = make(base, tmp_path / "adapter", target_modules=MODULES).eval()
    prompt, forced = ids(20), ids(8, seed=5)
    with torch.no_grad():
        wanted = model(torch.tensor([prompt + forced])).logits[0, len(prompt) - 1 :].numpy()
    with Engine(bmodel_in(folder), CHIP) as engine, engine.session() as opened:
        assert engine.rank == 8
        plain = answer(opened, opened.prefill(prompt), forced)
        engine.adapt(lora.read(tmp_path / "adapter", spec.read(base), engine.rank))
        adapted = answer(opened, opened.prefill(prompt), forced)
        engine.adapt(None)
        again = answer(opened, opened.prefill(prompt), forced)
    for step, logits in zip(adapted, wanted, strict=True):
        assert step.logits @ logits / (np.linalg.norm(step.logits) * np.linalg.norm(logits)) > 0.999
        assert step.token == logits.argmax() or logits.max() - logits[step.token] < NEAR_TIE
    assert_same(again, plain)
    assert [step.token for step in adapted] != [step.token for step in plain]


def test_what_does_not_fit_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = checkpoint("qwen2")
    known = spec.read(base)
    make(base, tmp_path / "a", target_modules=["q_proj"], r=8)
    with pytest.raises(UserError, match="q_proj has rank 8, and the bmodel takes 4; build with LORA=8"):
        lora.read(tmp_path / "a", known, 4)
    make(base, tmp_path / "b", target_modules=["lm_head"])
    with pytest.raises(
        UserError, match=r"changes lm_head\.weight, which lies fixed in the bmodel; build with ADAPTER="
    ):
        lora.read(tmp_path / "b", known, 4)
    make(base, tmp_path / "c", target_modules=["q_proj"], use_dora=True)
    with pytest.raises(UserError, match="which is no low-rank change; build with ADAPTER="):
        lora.read(tmp_path / "c", known, 4)


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("falcon-7b", {}, "--lora: layers of falcon models are not made of the modules that take an adapter"),
        ("qwen2.5-0.5b", {"devices": 2}, "--lora: nets that take adapters are not split over devices"),
        ("qwen2.5-0.5b", {"dynamic": True}, "--lora: dynamic nets take no adapters"),
        ("qwen2.5-0.5b", {"history": True}, "--lora: nets that prefill over a history take no adapters"),
        ("qwen2.5-0.5b", {"batch": 2}, "--lora: nets for conversations side by side take no adapters"),
        ("qwen2.5-vl-3b", {}, "--lora: nets of qwen2_5_vl models take no adapters; merge one with --adapter"),
        ("qwen2.5-0.5b", {"route": "llm_convert"}, "--route: llm_convert cannot build this: its nets take adapters"),
    ],
)
def test_what_cannot_be_is_refused(recipe: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_plan(recipe, lora=8, **changes)
