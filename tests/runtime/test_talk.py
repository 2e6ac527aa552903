"""`generate` and `chat` as a user runs them, and how they find what they need."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import place, talk
from contract import manifest
from contract.errors import UserError
from contract.manifest import Manifest
from tests.runtime.conftest import bmodel_in

DRIVER = """
import argparse, sys
from contract.errors import UserError
from cli.talk import add_parsers
parser = argparse.ArgumentParser()
add_parsers(parser.add_subparsers(required=True))
args = parser.parse_args()
try:
    sys.exit(args.run(args))
except UserError as error:
    sys.exit(print(error, file=sys.stderr) or 2)
"""
ROOT = Path(__file__).resolve().parents[2]


def _parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    talk.add_parsers(parser.add_subparsers(required=True))
    return parser.parse_args(words)


def _config(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


class _NoEnd:
    eos_token_id = None


def test_a_build_folder_is_found_and_a_failed_one_named(tmp_path: Path) -> None:
    _config(tmp_path / "config")
    made = Manifest("n", "x.bmodel", "r", {}, {}, {}, status=manifest.FAILED, reason="chip: block_3")
    manifest.write(made, tmp_path)
    found = place.find(tmp_path)
    assert (found.bmodel, found.config) == (tmp_path / "x.bmodel", tmp_path / "config")
    assert "block_3" in found.warning


def test_a_converters_folder_and_a_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.bmodel").touch()
    elsewhere = _config(tmp_path / "elsewhere")
    assert place.find(tmp_path, elsewhere) == place.Place(tmp_path / "a.bmodel", elsewhere)
    _config(tmp_path / "config")
    assert place.find(tmp_path / "a.bmodel").config == tmp_path / "config"
    (tmp_path / "b.bmodel").touch()
    with pytest.raises(UserError, match="2 bmodels in here"):
        place.find(tmp_path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder or file"):
        place.find(tmp_path / "typo")
    with pytest.raises(UserError, match=r"no \.bmodel in here"):
        place.find(tmp_path)
    (tmp_path / "a.bmodel").touch()
    with pytest.raises(UserError, match=r"config: no config\.json in here"):
        place.find(tmp_path)
    _config(tmp_path / "config")
    with pytest.raises(UserError, match="no tokenizer in here"):
        place.tokenizer(tmp_path / "config")


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [({"eos_token_id": [5, 6]}, {"eos_token_id": 9}, {5, 6}), ({}, {"eos_token_id": 9}, {9}), (None, {}, set())],
)
def test_end_tokens(
    generation: dict[str, object] | None, config: dict[str, object], ends: set[int], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    tokenizer = _NoEnd()
    assert place.end_tokens(tmp_path, tokenizer) == ends
    tokenizer.eos_token_id = 7
    assert place.end_tokens(tmp_path, tokenizer) == ends | {7}


def test_nonsense_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    args = _parse("generate", str(tmp_path), "--prompt", "x", "--top-p", "2")
    with pytest.raises(UserError, match="top-p"):
        args.run(args)
    assert (
        "transformers"
        not in subprocess.run(
            [sys.executable, "-c", "import cli.talk, sys; print(*sys.modules)"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        ).stdout
    )


@pytest.fixture(scope="module")
def folder(logits_folder: Path, talking_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bmodel and its config, as `hf2bmodel build` lays them out but for the manifest."""
    out = tmp_path_factory.mktemp("build")
    shutil.copy(bmodel_in(logits_folder), out)
    shutil.copytree(talking_checkpoint, out / "config")
    return out


def _command(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.toolchain
def test_generate_streams_what_json_reports(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> str:
        args = _parse("generate", str(folder), "--prompt", "the fox", *words)
        assert args.run(args) == 0
        return capsys.readouterr().out

    report = json.loads(run("--max-new-tokens", "9", "--json"))
    assert run("--max-new-tokens", "9") == report["text"] + "\n"
    assert len(report["tokens"]) == 9
    assert report["finish_reason"] == "length"
    assert report["seconds_to_first_token"] > 0
    assert report["tokens_per_second"] > 0
    raw = json.loads(run("--max-new-tokens", "200", "--raw", "--json"))
    assert raw["prompt_tokens"] < report["prompt_tokens"]
    if raw["finish_reason"] == "length":
        assert len(raw["tokens"]) + raw["prompt_tokens"] == 65  # the last token was given but not taken in


@pytest.mark.toolchain
def test_sampling_follows_its_seed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(seed: int) -> list[int]:
        words = ("--temperature", "2", "--top-k", "50", "--seed", str(seed), "--json", "--max-new-tokens", "8")
        args = _parse("generate", str(folder), "--prompt", "x", *words)
        assert args.run(args) == 0
        tokens: list[int] = json.loads(capsys.readouterr().out)["tokens"]
        return tokens

    first = run(1)
    assert run(1) == first
    assert run(2) != first


@pytest.mark.toolchain
def test_a_top1_head_cannot_be_sampled_from(convert: Callable[..., Path], folder: Path) -> None:
    converted = convert("bm1688", "--num_core", "2")
    args = _parse("generate", str(converted), "--config", str(folder / "config"), "--prompt", "x", "--temperature", "1")
    with pytest.raises(UserError, match="only the likeliest token"):
        args.run(args)


@pytest.mark.toolchain
def test_chat_remembers_forgets_and_clears(folder: Path) -> None:
    chat = _command("chat", str(folder), "--max-new-tokens", "3")
    out, notes = chat.communicate("the fox\nthe dog\n/clear\nthe fox\n" + "the lazy dog " * 30 + "\nthe fox\n")
    assert chat.returncode == 0
    answers = [line.strip() for line in out.split("> ")[1:]]
    assert answers[0] == answers[3]  # after /clear the first answer comes again
    assert "the prompt has" in notes  # the fifth is too long, and the chat goes on
    assert notes.count("--max-new-tokens reached") + notes.count("sequence is full") >= 2


@pytest.mark.toolchain
def test_ctrl_c_stops_the_answer_and_not_the_program(folder: Path) -> None:
    chat = _command("chat", str(folder), "--max-new-tokens", "40")
    assert chat.stdin
    assert chat.stdout
    assert chat.stderr
    chat.stdin.write("the fox\n")
    chat.stdin.flush()
    while chat.stdout.read(1) != ">":  # the prompt; the answer comes next
        pass
    chat.stdout.read(2)
    os.kill(chat.pid, signal.SIGINT)
    out, notes = chat.communicate("/exit\n", timeout=60)
    assert chat.returncode == 0, notes
    assert "(stopped)" in notes
    assert out.endswith("> ")
