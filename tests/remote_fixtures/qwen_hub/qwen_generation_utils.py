"""Test fixture: the names that modeling_qwen.py takes from its neighbour; they belong to chat(), left out here."""

from typing import List, Tuple, Union  # noqa: UP035

from transformers import PreTrainedTokenizer  # noqa: F401
from transformers.generation import LogitsProcessor

HistoryType = List[Tuple[str, str]]  # noqa: UP006
StopWordsIds = Union[List[int], None]  # noqa: UP006, UP007


class StopWordsLogitsProcessor(LogitsProcessor):
    pass


def make_context(*_, **__):
    raise NotImplementedError("test fixture: no chat")


decode_tokens = get_stop_words_ids = make_context
