"""Test fixture: gives ModelScope's real, unmodified QWen files the names that published checkpoints use."""

from .stand_ins import installed

with installed():
    from .modelscope.models.nlp.qwen.configuration import QWenConfig
    from .modelscope.models.nlp.qwen.text_generation import QWenForTextGeneration as QWenLMHeadModel

__all__ = ["QWenConfig", "QWenLMHeadModel"]
