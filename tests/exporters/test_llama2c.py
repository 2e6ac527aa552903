"""llama2.c files: weights against a forward pass in llama2.c's own order, tokenizer against its encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from llama2c_files import encode_c, run_c, table, texts, train_sentencepiece, write

from contract.errors import UserError
from exporters import llama2c


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_sentencepiece(tmp_path_factory.mktemp("spm") / "tokenizer.model")


@pytest.mark.parametrize("tied", [True, False])
def test_hugging_face_gives_the_logits_of_run_c(tied: bool, sentencepiece: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    weights = write(tmp_path / "model.bin", tied, table(sentencepiece))
    llama2c.convert(tmp_path / "model.bin", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (model.dtype, model.config.tie_word_embeddings) == (torch.float32, tied)
    tokens = [1, 300, 7, 259, 3, 280, 111, 299, 299, 12]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(logits, run_c(weights, tokens), atol=2e-5)


def test_tokenizer_equals_llama2c_and_sentencepiece(sentencepiece: Path, tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    write(tmp_path / "model.bin", True, table(sentencepiece))
    llama2c.convert(tmp_path / "model.bin", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    original = SentencePieceProcessor(model_file=str(sentencepiece))
    pieces = llama2c.read_sentencepiece(sentencepiece)
    for text in texts(300):
        ids = tokenizer(text).input_ids
        assert ids == encode_c(text, pieces) == [1, *original.encode(text)], text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_table_and_a_sentencepiece_model_give_the_same_tokenizer(sentencepiece: Path, tmp_path: Path) -> None:
    write(tmp_path / "with.bin", True, table(sentencepiece))
    write(tmp_path / "without.bin", True, b"")
    llama2c.convert(tmp_path / "with.bin", tmp_path / "a")
    llama2c.convert(tmp_path / "without.bin", tmp_path / "b", sentencepiece)
    assert (tmp_path / "a/tokenizer.json").read_text() == (tmp_path / "b/tokenizer.json").read_text()


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (20, "too short for a llama2.c checkpoint"),
        (5000, "truncated: 5000 of"),
        (-1, "the tokenizer table ends at token 329 of 330"),
        (None, "no tokenizer table behind the weights"),
    ],
)
def test_short_files_are_refused(keep: int | None, message: str, sentencepiece: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    write(file, True, b"" if keep is None else table(sentencepiece))
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=message) as caught:
        llama2c.convert(file, tmp_path / "out")
    assert caught.value.where == str(file)
    assert not (tmp_path / "out").exists()


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"GGUF" * 100)
    with pytest.raises(UserError, match=r"not a llama2\.c checkpoint"):
        llama2c.convert(tmp_path / "model.bin", tmp_path / "out")
