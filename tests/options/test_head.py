"""HEAD: how lm_head is quantised, whatever the mode does with the blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.errors import UserError
from contract.modes import HEADS
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import manifest
from tests.options.conftest import Made, cosines


def head_words(**options: object) -> str:
    (step,) = (s for s in recipe_plan("qwen2.5-0.5b", **options).steps if s.name == "lm_head")
    (words,) = (command for command in step.commands if command[0] == "model_deploy.py")
    start = words.index("--quantize")
    return " ".join(words[start + 1 : words.index("--quant_input")])


@pytest.mark.parametrize(
    ("mode", "head", "words"),
    [
        ("int4", None, "W8BF16 --q_group_size 128"),
        ("int4", "int4", "W4BF16 --q_group_size 64"),
        ("int4", "int8", "W8BF16 --q_group_size 128"),
        ("int4", "bf16", "BF16"),
        ("int8", "bf16", "BF16"),
        ("bf16", "int4", "W4BF16 --q_group_size 64"),
        ("bf16", "int8", "W8BF16 --q_group_size 128"),
        ("f16", "int4", "W4F16 --q_group_size 64"),
        ("f16", "int8", "W8F16 --q_group_size 128"),
    ],
)
def test_words(mode: str, head: str | None, words: str) -> None:
    assert head_words(mode=mode, head=head) == words


def test_names_and_refusals() -> None:
    assert recipe_plan("qwen2.5-0.5b", head="bf16").folder.name == "qwen2.5-0.5b_int4_seq512_bm1684x_1dev_head-bf16"
    for changes, told in (
        ({"head": "int2"}, '--head: "int2" is unknown; use int4, int8 or bf16'),
        (
            {"mode": "f16", "head": "bf16"},
            "--head: mode f16 has no bfloat16; leave it out: the head is float16 then, as all else; or use MODE=bf16",
        ),
        (
            {"mode": "bf16", "head": "int4", "group_size": 60},
            "--group-size: group size 60 does not divide the hidden size (896); use 128, 64 or 32",
        ),
    ):
        with pytest.raises(UserError) as error:
            recipe_plan("qwen2.5-0.5b", **changes)
        assert str(error.value) == told
    assert recipe_plan("qwen2.5-0.5b", mode="bf16", head="int4", group_size=56).steps  # divides 896, not 4864


@pytest.mark.toolchain
def test_more_bits_are_nearer_and_larger(made: Made, gaussian: Path) -> None:
    folders = {head: made(gaussian, "--mode", "bf16", "--head", head) for head in HEADS}
    near = {head: cosines(folder) for head, folder in folders.items()}
    print({head: round(of["lm_head"], 6) for head, of in near.items()})
    assert 0.96 < near["int4"]["lm_head"] < 0.9995 < near["int8"]["lm_head"] < near["bf16"]["lm_head"]
    sizes = [manifest(folders[head])["nets"]["lm_head"]["bytes"] for head in HEADS]
    assert sizes == sorted(sizes)
    assert {of["block_1"] for of in near.values()} == {near["bf16"]["block_1"]}
    for head, folder in folders.items():
        (score,) = (s for s in manifest(folder)["parity"] if (s["rung"], s["net"]) == ("chip", "lm_head"))
        assert score["bar"] == {"int4": 0.96, "int8": 0.99, "bf16": 0.999}[head]
        assert score["passed"]
