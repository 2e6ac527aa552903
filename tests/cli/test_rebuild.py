"""`diff`: what two builds were not made alike from; `rebuild` refuses what would not give the same bytes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cli import main, rebuild
from compile.digest import Digests
from contract import manifest as manifests
from contract.errors import UserError
from contract.manifest import Manifest
from tests import tiny

RECIPE = {
    "name": "small",
    "architecture": "qwen2",
    "source": {"hub": "someone/small"},
    "seq_length": 96,
    "mode": "int4",
    "group_size": 32,
    "prompt": "Hello",
}


@pytest.fixture
def made(tmp_path: Path) -> Manifest:
    from compile.plan import settle
    from recipes.recipe import Recipe

    nets = {f"block_{i}": {"kind": "block", "quantize": "W4BF16"} for i in range(2)}
    inputs = {
        "recipe": RECIPE,
        "options": asdict(settle(Recipe.model_validate(RECIPE), {})),
        "files": {"config.json": "1" * 64, "model.safetensors": "a" * 64},
        "revision": "",
        "source": {"version": "0.1.0", "digest": "d" * 64},
    }
    model = {"path": str(tmp_path / "checkpoint"), "source": None}
    return Manifest("n", "n.bmodel", "small", model, {}, {}, {"torch": "2.13.0"}, nets, sha256="b" * 64, inputs=inputs)


def store(manifest: Manifest, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    manifests.write(manifest, folder)
    return str(folder)


def test_builds_made_from_the_same(made: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a build measures, where it lies and what verification said are no inputs."""
    other = replace(
        made, name="m", seconds={"wall": 3.0}, status="verified", model={**made.model, "path": "/elsewhere"}
    )
    a, b = store(made, tmp_path / "a"), store(other, tmp_path / "b")
    assert main.main(["diff", a, f"{b}/manifest.json"]) == 0
    assert capsys.readouterr().out == "made from the same\n"


def test_each_input_that_differs_is_a_line(made: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = made.inputs
    other = replace(
        made,
        tools={"torch": "2.12.0", "tpu_mlir": "v1"},
        nets={**made.nets, "block_1": {"kind": "block", "quantize": "W8BF16"}},
        inputs={
            **inputs,
            "recipe": {**RECIPE, "prompt": "Bye"},
            "options": {**inputs["options"], "mode": "int8"},
            "files": {"config.json": "1" * 64, "model.safetensors": "c" * 64},
            "source": {"version": "0.2.0", "digest": "e" * 64},
        },
    )
    a, b = store(made, tmp_path / "a"), store(other, tmp_path / "b")
    assert main.main(["diff", a, b]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "checkpoint model.safetensors: aaaaaaaaaaaa -> cccccccccccc",
        "option mode: int4 -> int8",
        "quantization of block: W4BF16 -> 1 x W4BF16, 1 x W8BF16",
        "recipe prompt: Hello -> Bye",
        "tool hf2bmodel: 0.1.0 (dddddddddddd) -> 0.2.0 (eeeeeeeeeeee)",
        "tool torch: 2.13.0 -> 2.12.0",
        "tool tpu_mlir: - -> v1",
    ]
    assert main.main(["diff", a, b, "--json"]) == 1
    assert {"input": "option mode", "a": "int4", "b": "int8"} in json.loads(capsys.readouterr().out)


def test_a_manifest_that_does_not_say_enough(
    made: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store(replace(made, inputs={}), tmp_path / "a")
    for words in (["diff", folder, folder], ["rebuild", folder]):
        assert main.main(words) == 2
        assert "does not say all that it was made from" in capsys.readouterr().err


@pytest.mark.toolchain
def test_rebuild_refuses_another_checkpoint_and_other_tools(
    made: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.make("qwen2", tmp_path / "checkpoint")
    words = ["rebuild", store(made, tmp_path / "a"), "--out", str(tmp_path / "out")]
    assert main.main(words) == 2
    error = capsys.readouterr().err
    assert "not the checkpoint that was built: config.json is not the same" in error
    right = {**made.inputs, "files": Digests(tmp_path / "none").folder(model)}
    store(replace(made, inputs=right), tmp_path / "a")
    assert main.main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "made with hf2bmodel 0.1.0 (dddddddddddd), and here is" in error
    assert error.endswith("install that, or go on with --any-tools")
    assert not (tmp_path / "out").exists()


def test_the_revision_that_was_taken_is_taken_again(made: Manifest) -> None:
    pinned = replace(made, inputs={**made.inputs, "revision": "f" * 40})
    assert rebuild._recipe(pinned)["source"] == {"hub": "someone/small", "revision": "f" * 40}
    assert rebuild._recipe(made)["source"] == {"hub": "someone/small"}


def test_an_adapter_is_one_of_the_inputs(made: Manifest, tmp_path: Path) -> None:
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    for folder, name in ((model, "config.json"), (adapter, "adapter_config.json")):
        folder.mkdir()
        (folder / name).write_text("{}")
    made.inputs["options"]["adapter"] = str(adapter)
    digests = Digests(tmp_path / "none")
    own = {f"adapter/{name}": digest for name, digest in digests.folder(adapter).items()}
    made.inputs["files"] = {**digests.folder(model), **own}
    rebuild._check_files(made, model)
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    with pytest.raises(UserError, match=r"adapter/adapter_config\.json is not the same"):
        rebuild._check_files(made, model)
