"""The whole line over code that comes with the checkpoint: refused until the user allows it, then to words."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import remote_models
from tests.end_to_end.test_line import ROOT, hf2bmodel, manifest
from tests.exporters import vocabularies

pytestmark = pytest.mark.toolchain


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen-1 in the real modeling code, with the real vocabulary, and the tokenizer's code."""
    vocabulary = {"vocab_size": 151936, "padded_vocab_size": 151936}
    folder = remote_models.make("qwen", tmp_path_factory.mktemp("qwen") / "checkpoint", **vocabulary)
    vocabularies.checkpoint("qwen", folder / "tokenizer")
    for file in (folder / "tokenizer").iterdir():
        if not (folder / file.name).exists():
            shutil.move(file, folder / file.name)
    shutil.rmtree(folder / "tokenizer")
    return folder


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_make_qwen_7b_ends_with_a_bmodel_that_generates(qwen: Path, tmp_path: Path) -> None:
    words = ("qwen-7b", "MODE=int4", "DEV=1", f"MODEL={qwen}", f"OUT={tmp_path}", "SEQ=96", "SAMPLE=1")
    refused = make(*words)
    assert refused.returncode == 2
    assert "brings its own code, which would run on this machine: " in refused.stderr
    assert "TRUST_REMOTE_CODE=1" in refused.stderr
    # The zoo climbs the ladder; over this vocabulary that takes minutes.
    done = make(*words, "GROUP=32", "TRUST_REMOTE_CODE=1", "VERIFY=none")
    assert done.returncode == 0, done.stderr
    (folder,) = (path for path in tmp_path.glob("qwen-7b*"))
    assert manifest(folder)["nets"]["block_0"]["quantize"] == "W4BF16"
    shutil.move(qwen, tmp_path / "away")  # config/ alone is enough
    said = hf2bmodel("generate", str(folder), "--prompt", "你好", "--max-new-tokens", "5", "--json")
    assert said.returncode == 0, said.stderr
    answer = json.loads(said.stdout)
    assert answer["prompt_tokens"] > 10  # the chat's frame around it
    assert len(answer["tokens"]) == 5
