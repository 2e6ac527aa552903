"""Test fixture: what modeling_internvl_chat.py asks of the published file, the words before a conversation."""

from dataclasses import dataclass


@dataclass
class Conversation:
    name: str
    system_message: str


TEMPLATES = {name: Conversation(name, "You are a helpful assistant.") for name in ("internlm2-chat", "Hermes-2")}


def get_conv_template(name):
    return TEMPLATES[name]
