# ruff: noqa: RUF001  (the texts are Chinese: their punctuation is meant)
"""Converted tokenizers against tiktoken, sentencepiece and published ids; and what a config folder alone can do."""

from __future__ import annotations

import base64
import json
import random
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import vocabularies
from published_chats import PUBLISHED, TALK
from vocabularies import CHECKPOINTS, checkpoint, write

from cli import pipeline, place, talker
from contract.errors import UserError
from exporters import tokenizer as tokenizers
from exporters.tokenizer_kinds import KINDS, Kind

pytestmark = pytest.mark.slow

TEXTS = [
    *("Hello world", "你好，世界！", "  leading", "trailing  ", "x    y     z", "a\n\n\nb\r\nc\t\td", "", " ", "\n"),
    *("1234567890 3.14 ０１２", "🚀😶‍🌫️👨‍👩‍👧 ﬁ é é", "def f(x):\n    return x+1\n\tif y: pass", "philosophy, develop"),
    *("'RE you sure? 'M not", "កាន់តែ нещо ſhe'ſ", "=====---->>> -- ->", "```python\nprint('hi')```...。。。。——……"),
    *("<h2>hi</h2><reserved_5>", "a <0x0A>", "\x01\x7f", "▁x▁▁", "a" * 50, " " * 101, "\n " * 9),
]
AS_IT_IS = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The config folder of a build, by the checkpoint's name; the checkpoint itself is gone."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            pipeline._copy_config(checkpoint(name, root / "checkpoint"), root / "config")
            shutil.rmtree(root / "checkpoint")
            made[name] = root / "config"
        return made[name]

    return get


def kind_of(name: str) -> Kind:
    wanted = [k for k in KINDS if k.tokenizer_class == CHECKPOINTS[name][2]]
    return next(k for k in wanted if k.marker in CHECKPOINTS[name][5])


def fuzz(parts: list[str], count: int) -> list[str]:
    rng = random.Random(len(parts))
    return ["".join(rng.choices(parts, k=rng.randrange(1, 40))) for _ in range(count)]


@pytest.mark.parametrize(("name", "normal_form"), [("qwen", "NFC"), ("glm4", None)])
def test_ids_are_tiktokens(name: str, normal_form: str | None, folders: Any) -> None:
    import tiktoken

    lines = [line.split() for line in vocabularies.fetch("qwen").read_bytes().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    kind, tokenizer = kind_of(name), tokenizers.load(folders(name))
    special = {token: i for i, token in enumerate(kind.appended, start=len(ranks))}
    original = tiktoken.Encoding(name, pat_str=kind.pattern, mergeable_ranks=ranks, special_tokens=special)
    rng = random.Random(0)
    scripts = [chr(rng.randrange(a, b)) for a, b in ((0x80, 0x3000), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)) * 200]
    letters = [*map(chr, range(32, 127)), *"\t\n\r \u00a0\u3000\u2028\u0085"] * 3 + scripts
    for text in [*TEXTS, *fuzz(letters, 600), f"so{kind.stops[0]}far {kind.appended[-1]}"]:
        plain = unicodedata.normalize(normal_form, text) if normal_form else text
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == original.encode(plain, allowed_special="all"), text
        assert tokenizer.decode(ids) == original.decode(ids)


@pytest.mark.parametrize("name", ["chatglm2", "chatglm3", "baichuan2", "internlm2"])
def test_ids_are_sentencepieces(name: str, folders: Any) -> None:
    compare(tokenizers.load(folders(name)), vocabularies.fetch(CHECKPOINTS[name][0]))


def compare(tokenizer: Any, model: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    original = SentencePieceProcessor(model_file=str(model))
    plain = [i for i in range(len(original)) if not (original.is_control(i) or original.is_byte(i) or i == 0)]
    rng = random.Random(1)
    pieces = [original.id_to_piece(rng.choice(plain)).replace("▁", " ").replace("\0", " ") for _ in range(300)]
    marks = ["  ", "a", "t", "=", "-", "\n", "\t", ".", "。", "，", "1", "你", "好", "é", "🚀", "—", "…", "h2>", "<"]
    for text in [*TEXTS, *fuzz(pieces, 300), *fuzz([" ", *marks], 600)]:
        ids = original.encode(text)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids, text
        assert tokenizer.decode(ids) == original.decode(ids), text


@pytest.mark.parametrize(
    "options",
    [
        {"user_defined_symbols": ["<h2>", "</h2>", "▁▁▁", "é"], **AS_IT_IS},
        {"user_defined_symbols": ["<h2>", "</h2>", "▁▁▁", "é"], "add_dummy_prefix": False},
        {"normalization_rule_name": "nmt_nfkc"},
        AS_IT_IS,
    ],
)
def test_what_a_sentencepiece_model_asks_of_its_texts_is_done(options: dict[str, Any], tmp_path: Path) -> None:
    model = vocabularies.train(tmp_path / "tokenizer.model", **options)
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BaichuanTokenizer"})
    compare(tokenizers.load(tmp_path), model)


@pytest.mark.parametrize(("name", "messages", "ids"), PUBLISHED)
def test_chats_have_the_published_ids(name: str, messages: list[dict[str, str]], ids: list[int], folders: Any) -> None:
    tokenizer = tokenizers.load(folders(name))
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == ids


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qwen", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n"),
        ("glm4", "[gMASK]<sop><|user|>\n你好"),
    ],
)
def test_chats_read_as_published(name: str, text: str, folders: Any) -> None:
    tokenizer = tokenizers.load(folders(name))
    start = {"qwen": "<|im_start|>assistant\n", "glm4": "<|assistant|>"}[name]
    assert tokenizer.apply_chat_template(TALK[:1], tokenize=False, add_generation_prompt=True) == text + start


@pytest.mark.parametrize(
    ("name", "special", "start", "ends"),
    [
        (
            "qwen",
            {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<|extra_204|>": 151850},
            [],
            {151643, 151644, 151645},
        ),
        # GLM-4's own vocabulary is 314 tokens smaller than the one used here; its special tokens follow it likewise.
        (
            "glm4",
            {"<|endoftext|>": 314 + 151329, "[gMASK]": 314 + 151331, "<sop>": 314 + 151333, "<|user|>": 314 + 151336},
            [314 + 151331, 314 + 151333],
            {314 + 151329, 314 + 151336, 314 + 151338},
        ),
        (
            "chatglm3",
            {"[MASK]": 64789, "[gMASK]": 64790, "[sMASK]": 64791, "sop": 64792, "eop": 64793, "<|system|>": 64794}
            | {"<|user|>": 64795, "<|assistant|>": 64796, "<|observation|>": 64797, "</s>": 2},
            [64790, 64792],
            {2, 64795, 64797},
        ),
        ("chatglm2", {"[MASK]": 64789, "[gMASK]": 64790, "sop": 64792, "eop": 64793}, [64790, 64792], {2}),
        ("baichuan2", {"<s>": 1, "</s>": 2, "<reserved_106>": 195, "<reserved_107>": 196}, [], {2}),
        (
            "internlm2",
            {"<s>": 1, "</s>": 2, "<|plugin|>": 92538, "<|im_end|>": 92542, "<|im_start|>": 92543},
            [1],
            {2, 92542},
        ),
    ],
)
def test_a_config_folder_alone_has_special_tokens_start_and_ends(
    name: str, special: dict[str, int], start: list[int], ends: set[int], folders: Any
) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = folders(name)
    assert not list(folder.glob("*.py"))
    assert not (folder / CHECKPOINTS[name][1]).exists()
    assert "auto_map" not in json.loads((folder / "tokenizer_config.json").read_text())
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for tokenizer in (tokenizers.load(folder), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)):
        assert tokenizer("x y 你好")["input_ids"] == plain.encode("x y 你好").ids
        assert tokenizer("")["input_ids"] == start
        assert {token: tokenizer.convert_tokens_to_ids(token) for token in special} == special
        joined = tokenizer("".join(f"{token} " for token in special), add_special_tokens=False)["input_ids"]
        assert [i for i in joined if i in special.values()] == list(special.values())
        assert tokenizer.decode(list(special.values()), skip_special_tokens=True) == ""
        assert place.end_tokens(folder, tokenizer) == ends


def test_a_checkpoint_itself_loads_the_same(folders: Any, tmp_path: Path) -> None:
    folder = checkpoint("chatglm3", tmp_path)
    tokenizer, built = tokenizers.load(folder), tokenizers.load(folders("chatglm3"))
    assert [tokenizer(text)["input_ids"] for text in TEXTS] == [built(text)["input_ids"] for text in TEXTS]
    assert tokenizer.chat_template == built.chat_template
    assert place.end_tokens(folder, tokenizer) == {2, 64795, 64797}
    assert not (folder / "tokenizer.json").exists()


def test_a_plain_word_is_no_special_token_inside_of_another(folders: Any) -> None:
    tokenizer = tokenizers.load(folders("chatglm3"))
    assert not {64792, 64793} & set(tokenizer("philosophy of people sopeop", add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("where", ["tokenizer_config.json", "chat_template.jinja", "argument"])
def test_the_checkpoints_own_template_goes_first(where: str, tmp_path: Path) -> None:
    folder, out = checkpoint("chatglm2", tmp_path / "checkpoint"), tmp_path / "out"
    out.mkdir()
    if where == "tokenizer_config.json":
        settings = json.loads((folder / where).read_text())
        write(folder / where, {**settings, "chat_template": "mine"})
    elif where == "chat_template.jinja":
        (folder / where).write_text("mine")
    tokenizers.prepare(folder, out, chat_template="mine" if where == "argument" else None)
    assert tokenizers.load(out).chat_template == "mine"


@pytest.mark.parametrize(
    ("name", "generation"), [("qwen", {"chat_format": "raw", "eos_token_id": 151643}), ("baichuan2", {})]
)
def test_a_base_model_has_no_chat(name: str, generation: dict[str, Any], tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    write(folder / "generation_config.json", generation)
    assert tokenizers.load(folder).chat_template is None


def test_tokens_that_a_checkpoint_adds_are_kept(tmp_path: Path) -> None:
    folder = checkpoint("internlm2", tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    added = {"92538": {"content": "<tool>"}, "92544": {"content": "<img>"}, "92545": {"content": "</img>"}}
    write(folder / "tokenizer_config.json", {**settings, "added_tokens_decoder": added})
    assert tokenizers.load(folder)("<tool></img><img>", add_special_tokens=False)["input_ids"] == [92538, 92545, 92544]
    del added["92544"]
    write(folder / "tokenizer_config.json", {**settings, "added_tokens_decoder": added})
    with pytest.raises(UserError, match=r"'</img>' should have id 92545, but tokenizer\.model leaves it 92544"):
        tokenizers.load(folder)


def test_a_fast_tokenizer_is_copied_as_it_is(folders: Any, tmp_path: Path) -> None:
    source = folders("qwen")
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    pipeline._copy_config(source, tmp_path / "config")
    assert {file.name: file.read_bytes() for file in (tmp_path / "config").iterdir()} == before


def test_code_beside_a_fast_tokenizer_is_not_asked_for(folders: Any, tmp_path: Path) -> None:
    folder = checkpoint("qwen", tmp_path / "checkpoint")
    shutil.copy(folders("qwen") / "tokenizer.json", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder / "tokenizer_config.json", {**settings, "eos_token": "<|im_end|>"})
    pipeline._copy_config(folder, tmp_path / "config")
    for where in (folder, tmp_path / "config"):
        assert tokenizers.load(where).eos_token_id == 151645
    assert (tmp_path / "config/tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_a_checkpoint_without_a_tokenizer_stays_without(tmp_path: Path) -> None:
    write(tmp_path / "config.json", {"model_type": "qwen", "tokenizer_class": "QWenTokenizer"})
    assert tokenizers.load(tmp_path) is None
    pipeline._copy_config(tmp_path, tmp_path / "config")
    assert [file.name for file in (tmp_path / "config").iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("MyTokenizer", None, "the tokenizer MyTokenizer is code of the checkpoint's own"),
        ("QWenTokenizer", None, "qwen.tiktoken: the vocabulary of the tokenizer is missing"),
        ("QWenTokenizer", b"# not it\n", "qwen.tiktoken: not a tiktoken vocabulary"),
        ("BaichuanTokenizer", b"\xff\xff", "tokenizer.model: not a SentencePiece model"),
        ("BaichuanTokenizer", b"", "tokenizer.model: not a SentencePiece BPE model"),
        ("ChatGLM4Tokenizer", b"IQ== 0 1\n", "tokenizer.model: not a tiktoken vocabulary"),
    ],
)
def test_what_cannot_be_converted_is_refused(name: str, data: bytes | None, message: str, tmp_path: Path) -> None:
    code = {"AutoTokenizer": [f"tokenization_it.{name}", None]}
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": name, "auto_map": code})
    if data is not None:
        (tmp_path / ("qwen.tiktoken" if name == "QWenTokenizer" else "tokenizer.model")).write_bytes(data)
    with pytest.raises(UserError) as caught:
        tokenizers.load(tmp_path)
    assert message in str(caught.value)


def test_a_unigram_model_is_refused(tmp_path: Path) -> None:
    vocabularies.train(tmp_path / "tokenizer.model", model_type="unigram", vocab_size=300)
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BaichuanTokenizer"})
    with pytest.raises(UserError, match="not a SentencePiece BPE model"):
        tokenizers.load(tmp_path)


def test_a_chats_answer_begins_with_its_first_letter() -> None:
    assert list(talker.from_first_letter(iter(["", "\n ", " 你", " 好"]))) == ["你", " 好"]
