"""Recipes: every shipped one loads; every fault is one line with file, line and key."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from contract import graphs
from contract.errors import UserError
from contract.modes import HEADS, MODES
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
sizes: {layers: 2, hidden: 64, intermediate: 128, heads: 2, kv_heads: 1, vocab: 100, max_positions: 512, tied: true}
"""
WANTED = {
    *("stories15m", "smollm2-135m", "llama2-7b", "llama2-13b", "llama3-8b", "yi-6b", "yi-34b"),
    *("deepseek-coder-6.7b", "lwm-text-chat", "qwen1.5-0.5b", "qwen1.5-1.8b", "qwen2-0.5b", "qwen2-1.5b"),
    *("qwen2-7b", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b", "qwen2.5-14b"),
}


def parse(tmp_path: Path, text: str) -> recipe.Recipe:
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    return recipe.load(tmp_path / "tiny.yaml")


def test_the_promised_models_are_there() -> None:
    assert set(recipe.names()) >= WANTED


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_loads(name: str) -> None:
    loaded = recipe.load(name)
    assert loaded.name == name
    assert loaded.architecture in ("llama", "qwen2")
    assert loaded.sizes is not None
    assert loaded.seq_length <= loaded.sizes.max_positions


def test_the_schema_takes_the_contracts_values() -> None:
    assert get_args(recipe.ModeName) == tuple(MODES)
    assert get_args(recipe.Recipe.model_fields["head"].annotation) == HEADS


def test_a_users_own_file_is_taken(tmp_path: Path) -> None:
    loaded = parse(tmp_path, GOOD)
    assert (loaded.seq_length, loaded.head, loaded.source.hub) == (512, "top1", "someone/tiny")


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("int4", ["BF16", "BF16", "W4BF16", "W4BF16", "W8BF16", "F32", "F32"]),
        ("int8", ["BF16", "BF16", "W8BF16", "W8BF16", "W8BF16", "F32", "F32"]),
        ("bf16", ["BF16", "BF16", "BF16", "BF16", "BF16", "F32", "F32"]),
        ("f16", ["F16", "F16", "F16", "F16", "F16", "F32", "F32"]),
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
        ("heads: 2", "head: 2", ':11: key "head" is unknown; did you mean heads?'),
        ("heads: 2", "heads: 0", ":11: heads 0 is not a positive whole number"),
        ("vocab: 100, ", "", ':11: key "vocab" is missing in sizes; add a line'),
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
