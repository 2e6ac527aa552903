import random

import pytest

from runtime.detokenizer import Detokenizer

TEXT = "A naïve café: 你好, 👩‍👩‍👧 — ok?"


def _bytes_decoder(ids: list[int]) -> str:
    return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("text", [TEXT, "", "plain", "\n\n  x  \n"])
def test_byte_tokens_give_whole_characters_only(text: str) -> None:
    detokenizer = Detokenizer(_bytes_decoder)
    pieces = [detokenizer.add(b) for b in text.encode()]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + detokenizer.flush() == text


def test_every_character_comes_as_soon_as_it_is_complete() -> None:
    detokenizer = Detokenizer(_bytes_decoder)
    assert [detokenizer.add(b) for b in "a你b".encode()] == ["a", "", "", "你", "b"]


def test_bytes_that_never_become_a_character_come_at_the_end() -> None:
    detokenizer = Detokenizer(_bytes_decoder)
    assert detokenizer.add(0xE4) == ""
    assert detokenizer.flush() == "\ufffd"


def test_the_prompt_decides_how_the_answer_begins() -> None:
    words = ["▁Once", "▁upon", "▁a", "▁time"]

    def decode(ids: list[int]) -> str:
        return "".join(words[i] for i in ids).replace("▁", " ").lstrip()

    assert [Detokenizer(decode, [0]).add(1), Detokenizer(decode).add(1)] == [" upon", "upon"]
    detokenizer = Detokenizer(decode, [0])
    assert "".join(detokenizer.add(i) for i in (1, 2, 3)) == " upon a time"


def test_tokens_without_text_do_no_harm() -> None:
    random.seed(0)
    ids = [random.choice([300, *b"xyz \xc3"]) for _ in range(300)]  # 300 stands for a special token

    def decode(some: list[int]) -> str:
        return bytes(i for i in some if i < 256).decode(errors="replace")

    detokenizer = Detokenizer(decode)
    assert "".join(detokenizer.add(i) for i in ids) + detokenizer.flush() == decode(ids)
