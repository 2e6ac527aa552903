"""Test fixture: gives ModelScope's real, unmodified ChatGLM2 files the names that published checkpoints use."""

from .stand_ins import installed

with installed():
    from .modelscope.models.nlp.chatglm2.configuration import ChatGLM2Config as ChatGLMConfig
    from .modelscope.models.nlp.chatglm2.text_generation import (
        ChatGLM2ForConditionalGeneration as ChatGLMForConditionalGeneration,
    )

__all__ = ["ChatGLMConfig", "ChatGLMForConditionalGeneration"]
