"""Test fixture: the names that modeling_baichuan.py takes from its neighbour; they belong to chat(), left out here."""

from queue import Queue


def build_chat_input(model, tokenizer, messages, max_new_tokens=0):
    raise NotImplementedError("test fixture: no chat")


class TextIterStreamer:
    def __init__(self, tokenizer, skip_prompt=False, skip_special_tokens=False):
        self.text_queue = Queue()
