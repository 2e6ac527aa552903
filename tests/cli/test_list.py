"""`hf2bmodel list`: the whole zoo, at once, without torch; and the README's table of what the tests found."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cli import main, zoo
from contract.modes import MODES
from recipes import recipe
from scripts import readme_tables

ROOT = Path(__file__).parents[2]
LEAST = {"patched": "passed", "onnx": "passed"}


def test_every_recipe_is_listed_with_a_size_for_every_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["list", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(listed) == set(recipe.names())
    assert listed["qwen-7b"]["remote_code"] is True
    assert listed["falcon-40b"]["architecture"] == "falcon"
    for name, entry in listed.items():
        sizes = entry["bytes"]
        assert sizes["int4"] < sizes["int8"] < sizes["bf16"] == sizes["f16"], name
        # Half the parameters in int4, two bytes each in bf16; tables that two nets use, and the chip's kernel.
        assert entry["parameters"] / 2 < sizes["int4"]
        assert 2 * entry["parameters"] < sizes["bf16"] < 4 * entry["parameters"] + 10**7


def test_the_table_names_them_all_and_marks_remote_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line for line in lines if line}
    assert set(recipe.names()) <= set(rows)
    assert {"int4", "int8", "bf16", "f16"} <= set(next(line for line in lines if line[:1] == ["name"]))
    for name in recipe.names():
        assert any(word.endswith("*") for word in rows[name]) == recipe.load(name).remote_code


def test_a_recipe_without_config_or_with_other_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (recipe.FOLDER / "stories15m.yaml").read_text(encoding="utf-8").replace("name: stories15m", "name: odd")
    (tmp_path / "odd.yaml").write_text(text.replace("group_size: 32", "group_size: 128"))
    bare = "name: bare\narchitecture: llama\nsource: {hub: a/b}\nseq_length: 8\nmode: int4\ngroup_size: 64\nprompt: x\n"
    (tmp_path / "bare.yaml").write_text(bare)
    monkeypatch.setattr(recipe, "FOLDER", tmp_path)
    found, faults = zoo.entries()
    assert not faults
    entries = {entry.name: entry for entry in found}
    assert set(entries["odd"].bytes) == set(MODES) - {"int4"}
    assert (entries["bare"].parameters, entries["bare"].bytes) == (None, {})


def test_a_broken_recipe_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (recipe.FOLDER / "llama2-7b.yaml").read_text(encoding="utf-8")
    (tmp_path / "llama2-7b.yaml").write_text(whole)
    (tmp_path / "torn.yaml").write_text(whole.replace("llama2-7b", "torn").replace("  hidden_size: 4096\n", ""))
    monkeypatch.setattr(recipe, "FOLDER", tmp_path)
    assert main.main(["list"]) == 2
    told = capsys.readouterr()
    assert "llama2-7b" in told.out
    assert told.err.startswith("hf2bmodel: recipes/torn.yaml: lacks 'hidden_size'")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(("words", "seconds"), [(["--help"], 0.3), (["list"], 1.0)])
def test_it_answers_at_once_and_without_torch(words: list[str], seconds: float) -> None:
    """In seconds of the processor, which a busy machine does not stretch; it does nothing but compute."""
    code = f"import sys; from cli import main\ntry: main.main({words})\nfinally: assert 'torch' not in sys.modules"

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def took() -> float:
        begin = spent()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
        return spent() - begin

    assert min(took() for _ in range(3)) < seconds


@pytest.mark.parametrize(
    ("cases", "cell"),
    [
        ({}, "not run"),
        ({"llama": {}}, "not run"),
        ({"llama": {"int4": LEAST, "bf16": LEAST}}, "`int4`, `bf16`: `onnx`"),
        ({"llama": {"int4": LEAST | {"chip": "not run"}}}, "`int4`: `onnx`"),
        ({"llama": {"bf16": LEAST | {"tokens": "passed"}}, "llama-x": {"bf16": LEAST}}, "`bf16`: `tokens` (1/2)"),
        (
            {"llama": {"bf16": LEAST | {"tokens": "passed"}}, "llama-x": {"int8": LEAST}},
            "`int8`: `onnx`; `bf16`: `tokens`",
        ),
        ({"llama": {"bf16": LEAST}, "llama-x": {"bf16": {"chip": "0.9"}}}, "`bf16`: **failed** on `chip` (`llama-x`)"),
    ],
)
def test_the_readme_says_what_the_tests_found(cases: dict[str, dict[str, dict[str, str]]], cell: str) -> None:
    assert readme_tables.climbed("README.md", cases) == cell


def test_a_result_that_fits_nowhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_tables, "ZOO", tmp_path / "zoo.json")
    rows = {row[0]: row[-1] for row in readme_tables.zoo("README.md")}
    assert set(rows.values()) == {"not run"}
    assert len(rows) == len({recipe.load(name).architecture for name in recipe.names()})
    (tmp_path / "zoo.json").write_text(json.dumps({"gemma3": {"int4": LEAST}, "glm4-chat": {"bf16": LEAST}}))
    wanted = {**rows, "`gemma3_text`": "`int4`: `onnx`", "`chatglm`": "`bf16`: `onnx`"}
    assert wanted == {row[0]: row[-1] for row in readme_tables.zoo("README.md")}
    for wrong in ({"lama": {"int4": LEAST}}, {"llama": {"int4": {"onxx": "passed"}}}):
        (tmp_path / "zoo.json").write_text(json.dumps(wrong))
        with pytest.raises(KeyError):
            list(readme_tables.zoo("README.md"))
