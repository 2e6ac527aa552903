"""DEV: tensor parallel over several chips, all of them played by the one device of the simulator."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract import graphs
from contract.errors import UserError
from contract.vision import Pictures
from exporters import spec
from runtime import bmodel
from runtime.engine import Engine
from runtime.session import Step
from tests import tiny, vision_models
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import RECIPE, hf2bmodel, manifest
from tests.options.conftest import Made
from tests.options.conversations import answer, assert_same, ids, session

# The narrowest MLP that the compiler splits at a hidden size of 128.
WIDE = {"intermediate_size": 33024, "num_hidden_layers": 1}
PROMPT, STEPS = [3, 14, 15, 92, 65], 6
SHORT = ("--seq-length", "24", "--verify", "none")  # the simulator takes 15 s to prefill 96 positions of such an MLP

Wide = Callable[..., Path]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Wide:
    """A tiny checkpoint with an MLP so wide, whose sum over so many channels is scaled back to a tiny one's size."""
    from safetensors.torch import load_file, save_file

    def make(name: str, **config: Any) -> Path:
        folder = tmp_path_factory.mktemp("wide") / name
        if name in vision_models.CASES:
            vision_models.make(name, folder, text_config={**WIDE, **config})
        else:
            tiny.make(name, folder, **{**WIDE, **config})
        tensors = load_file(folder / "model.safetensors")
        scaled = {n: t / 16 if n.endswith("down_proj.weight") else t for n, t in tensors.items()}
        save_file(scaled, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


def said(folder: Path) -> list[int]:
    """The tokens with which the bmodel of a build goes on, the likeliest each time."""
    with Engine(folder / manifest(folder)["bmodel"], "bm1684x") as engine, engine.session() as session:
        tokens = [session.prefill(PROMPT).token]
        while len(tokens) < STEPS:
            tokens.append(session.decode(tokens[-1]).token)
    return tokens


def weights(folder: Path) -> list[int]:
    return bmodel.weight_bytes(folder / manifest(folder)["bmodel"])


@pytest.mark.toolchain
@pytest.mark.parametrize(("name", "mode"), [("llama", "bf16"), ("qwen2", "int4")])
def test_two_devices_share_the_weights_and_give_the_same_tokens(
    name: str, mode: str, wide: Wide, made: Made, talking_checkpoint: Path
) -> None:
    checkpoint = wide(name, num_key_value_heads=2)
    for file in talking_checkpoint.glob("*token*"):
        shutil.copy(file, checkpoint)
    words = ("--mode", mode, "--input-length", "16")  # as SHORT, but long enough for the ladder's tokens
    one = made(checkpoint, *words, "--verify", "none")
    two = made(checkpoint, *words, "--devices", "2")
    found = manifest(two)
    assert (found["status"], found["reason"]) == ("verified", "")
    assert sorted({score["rung"] for score in found["parity"]}) == ["chip", "onnx", "patched", "tokens"]
    assert {score["net"] for score in found["parity"] if score["rung"] == "chip"} == set(found["nets"])
    (whole,), halves = weights(one), weights(two)
    print(whole, halves)
    assert len(halves) == 2
    assert max(halves) <= 0.6 * whole
    assert said(two) == said(one)
    done = hf2bmodel("generate", str(two), "--prompt", "ab", "--raw", "--max-new-tokens", "2")
    assert done.returncode == 0, done.stderr


@pytest.mark.toolchain
@pytest.mark.parametrize(
    ("options", "config"),
    [
        (("--mode", "bf16"), {}),
        # An eighth of each fills the chip's lanes. The head gives tokens.
        (("--mode", "int4", "--no-sample"), {"head_dim": 64, "intermediate_size": 33280}),
    ],
    ids=["bf16", "int4"],
)
def test_more_devices_too(options: tuple[str, ...], config: dict[str, int], wide: Wide, made: Made) -> None:
    checkpoint = wide("llama", num_attention_heads=8, num_key_value_heads=8, **config)
    tokens, held = {}, {}
    for devices in (1, 4, 8):
        folder = made(checkpoint, *options, "--devices", str(devices), *SHORT)
        tokens[devices], held[devices] = said(folder), max(weights(folder))
    print(held)
    assert tokens[4] == tokens[8] == tokens[1]
    assert held[8] < held[4] < 0.3 * held[1]


def shared(checkpoint: Path, made: Made, *options: str) -> tuple[Path, Path]:
    """Builds with these options for one device and for two, of which each holds at most 0.6 of the one's weights."""
    one, two = (made(checkpoint, "--mode", "bf16", *SHORT, *options, "--devices", n) for n in "12")
    (whole,), halves = weights(one), weights(two)
    print(options, whole, halves)
    assert len(halves) == 2
    assert max(halves) <= 0.6 * whole
    return one, two


@pytest.mark.toolchain
def test_a_history_is_split_too(wide: Wide, made: Made) -> None:
    """A prompt in two chunks, and a second turn behind it."""
    steps = []
    for folder in shared(wide("qwen2", num_key_value_heads=2), made, "--history", "--input-length", "8"):
        with session(folder) as opened:
            first = answer(opened, opened.prefill(ids(11)), ids(2, seed=1))
            steps.append([*first, *answer(opened, opened.extend(ids(7, seed=2)), ids(2, seed=3))])
    one, two = steps
    assert_same(two, one)


@pytest.mark.toolchain
def test_a_decoder_beside_a_tower_is_split_too(wide: Wide, made: Made) -> None:
    """On a chip of two cores, over a history: the second turn stands behind the picture."""
    checkpoint = wide("internvl", num_key_value_heads=2)
    words = ("--chip", "bm1688", "--history", "--input-length", "10")
    one, two = (looked(folder, checkpoint) for folder in shared(checkpoint, made, *words))
    assert_same(two, one)


def looked(folder: Path, checkpoint: Path) -> list[Step]:
    vision = spec.read(checkpoint).vision
    assert vision is not None
    drawn = np.random.default_rng(0).normal(size=(1, 3, vision.picture, vision.picture))
    picture, prompt = Pictures(drawn.astype(np.float32)), [5, 6, *[vision.image_token] * vision.rows, 7]
    with session(folder, "bm1688") as opened:
        first = answer(opened, opened.prefill(prompt, picture), [8, 9])
        return [*first, *answer(opened, opened.resume([*prompt, 8, 9, *ids(9)], picture), [10])]


def test_a_tower_stays_whole() -> None:
    plan = recipe_plan("llava-1.5-7b", devices=2)
    devices = {}
    for step in plan.steps:
        for words in step.commands:
            if "--num_device" in words:
                devices[step.name] = words[words.index("--num_device") + 1]
    assert devices.pop(graphs.VIT) == "1"
    assert set(devices.values()) == {"2"}


@pytest.mark.parametrize(
    ("recipe", "changes", "told"),
    [
        ("gemma-2b", {"devices": 2}, "layers of gemma models cannot be split over devices; use 1"),
        (
            "stories15m",
            {"devices": 2},
            "MLP matrices of 288 by 768 weights are too small to be split over devices; "
            "use 1: the compiler splits those of more than 4194304 weights",
        ),
        ("qwen2.5-7b", {"devices": 8}, "28 heads and 4 KV heads cannot be split over 8 devices; use 1, 2 or 4"),
        ("qwen2.5-vl-7b", {"devices": 2}, "layers of qwen2_5_vl models cannot be split over devices; use 1"),
        (
            "qwen2.5-7b",
            {"devices": 2, "mode": "int8"},
            "the compiler does not split layers of 8 bits; use 1, or MODE=int4, bf16 or f16",
        ),
    ],
)
def test_what_the_compiler_does_not_split_is_refused(recipe: str, changes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_plan(recipe, **changes)
    assert str(error.value) == f"--devices: {told}"


@pytest.mark.parametrize("recipe", ["qwen2.5-7b", "llava-1.5-7b"])
def test_dynamic_nets_are_not_split(recipe: str) -> None:
    told = "--dynamic: dynamic nets are not split over devices; leave it out, or use --devices 1"
    with pytest.raises(UserError) as error:
        recipe_plan(recipe, devices=2, dynamic=True)
    assert str(error.value) == told


@pytest.mark.toolchain
@pytest.mark.parametrize(
    ("name", "config", "told"),
    [
        (
            "llama",
            {"num_attention_heads": 4, "num_key_value_heads": 2},
            "the width of k per device (32) is no multiple of 64, as bm1684x needs it in mode int4; "
            "use fewer devices, or MODE=bf16",
        ),
        (
            "mistral",
            {"num_key_value_heads": 2},
            "attention to a window shorter than the sequence cannot be split over devices; "
            "use 1, or a --seq-length within the window",
        ),
    ],
)
def test_what_it_would_split_wrongly_is_refused(
    name: str, config: dict[str, int], told: str, wide: Wide, tmp_path: Path
) -> None:
    (recipe := tmp_path / "tiny.yaml").write_text(RECIPE.format(architecture=name))
    words = ("--model", str(wide(name, **config)), "--out", str(tmp_path), "--mode", "int4", "--devices", "2")
    done = hf2bmodel("build", str(recipe), *words)
    assert (done.returncode, done.stderr) == (2, f"hf2bmodel: --devices: {told}\n")
