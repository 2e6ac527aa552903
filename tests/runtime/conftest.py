"""Real bmodels of a tiny random Qwen2, made once by the vendor's own converter, and engines that run them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compile import deploy
from contract.graphs import Geometry
from runtime import simulator
from runtime.engine import Engine

SEQ = 64
GEOMETRY = Geometry(layers=2, hidden=128, kv_heads=1, head_dim=64, v_head_dim=64, vocab=500, seq_length=SEQ)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def talking_checkpoint(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests.tiny's qwen2 with a byte-level tokenizer and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = shutil.copytree(checkpoint("qwen2"), tmp_path_factory.mktemp("talking"), dirs_exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 20], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return Path(folder)


@pytest.fixture(scope="session")
def convert(talking_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """llm_convert's output folder for a chip and further options, bf16."""
    if shutil.which("parallel") is None:
        pytest.skip("llm_convert needs GNU parallel: apt install parallel")
    made: dict[tuple[str, ...], Path] = {}

    def run(chip: str, *options: str) -> Path:
        key = (chip, *options)
        if key not in made:
            out = tmp_path_factory.mktemp(chip)
            tools = simulator.find(chip).bmlib.parents[5] / "bin"
            command = ["llm_convert.py", "-m", str(talking_checkpoint), "-s", str(SEQ), "-q", "bf16", "-c", chip]
            environment = {**os.environ, **deploy.ENVIRONMENT, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
            with (out / "llm_convert.log").open("wb") as log:
                subprocess.run(
                    [*command, "-o", str(out), *options], check=True, env=environment, cwd=out, stdout=log, stderr=log
                )
            made[key] = out
        return made[key]

    return run


def bmodel_in(folder: Path) -> Path:
    (path,) = folder.glob("*.bmodel")
    return path


@pytest.fixture(scope="session")
def logits_folder(convert: Callable[..., Path]) -> Path:
    """bm1684x, with logits, greedy_head and sample_head."""
    return convert("bm1684x", "--do_sample")


@pytest.fixture(scope="session")
def engine(logits_folder: Path) -> Iterator[Engine]:
    with Engine(bmodel_in(logits_folder), "bm1684x") as running:
        yield running
