"""Tokenizers that checkpoints bring as remote code, each as a table: vocabulary, tokens, prompt, chat, ends.

The tables say what the published code does, so that none of it needs to run: exporters.tokenizer turns a
checkpoint's own vocabulary into a tokenizer.json by them. No torch, no transformers here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# How tiktoken vocabularies cut a text into words. Qwen-1 takes digits one by one, GLM-4 in threes.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Templates are rendered with line breaks after a {% block %} dropped, so breaks that matter stand in strings.
_CHATML_TURNS = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_QWEN = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}" + _CHATML_TURNS
)
_BAICHUAN = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '{user_token_id}' }}"
    "{% elif message['role'] == 'assistant' %}{{ '{assistant_token_id}' }}{% endif %}{{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '{assistant_token_id}' }}{% endif %}"
)
# A system message was never published for ChatGLM2; it is put before the rounds as plain text.
_CHATGLM2 = (
    "{{ '[gMASK]sop' }}{% set turn = namespace(number=0) %}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set turn.number = turn.number + 1 %}"
    "{{ '[Round ' ~ turn.number ~ ']\\n\\n问：' + message['content'] + '\\n\\n答：' }}"  # noqa: RUF001
    "{% else %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
)
# The blank after the line break is the one that SentencePiece puts before a text: the published code encodes
# head and content of a message each by itself.
_CHATGLM3 = (
    "{{ '[gMASK]sop' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n ' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_GLM4 = (
    "{{ '[gMASK]<sop>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Kind:
    """One tokenizer class of remote code.

    `tokenizer_class`: its name in tokenizer_config.json. `marker`: text that the checkpoint's tokenizer code or
    tokenizer_config.json must hold, where one class name stands for several kinds; the first kind that fits is taken.
    `vocabulary`: the file to convert; `reader`: "tiktoken" or "sentencepiece". `pattern`: how tiktoken cuts words.
    `appended`: special tokens whose ids follow the vocabulary's. `named`: special tokens at ids inside of it.
    `bos`: a text starts with bos_token unless tokenizer_config.json says otherwise; `prefix`: with these tokens.
    `tokens`: bos_token, eos_token … where tokenizer_config.json names none. `stops`: what ends an answer, besides
    the ids in the checkpoint's configs. `template`: its chat in Jinja, for checkpoints without one; a `{name}` in it
    is the token whose id generation_config.json gives under that name, and without that id there is no chat.
    `chats`: values in generation_config.json; one that differs there says that the checkpoint does not chat.
    """

    tokenizer_class: str
    vocabulary: str
    reader: str
    template: str
    stops: tuple[str, ...]
    tokens: Mapping[str, str]
    marker: str = ""
    pattern: str = ""
    normal_form: str = ""
    appended: tuple[str, ...] = ()
    named: Mapping[int, str] = field(default_factory=dict)
    bos: bool = False
    prefix: tuple[str, ...] = ()
    chats: Mapping[str, Any] = field(default_factory=dict)


_LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
_MASKS = ("[MASK]", "[gMASK]", "[sMASK]")
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")

KINDS = (
    Kind(
        tokenizer_class="QWenTokenizer",
        vocabulary="qwen.tiktoken",
        reader="tiktoken",
        pattern=_WORDS % "",
        normal_form="NFC",
        appended=("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))),
        tokens={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        stops=("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
        template=_QWEN,
        chats={"chat_format": "chatml"},
    ),
    Kind(
        tokenizer_class="ChatGLM4Tokenizer",
        vocabulary="tokenizer.model",
        reader="tiktoken",
        pattern=_WORDS % "{1,3}",
        appended=(
            *("<|endoftext|>", *_MASKS, "<sop>", "<eop>", *_ROLES),
            *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
        ),
        prefix=("[gMASK]", "<sop>"),
        tokens={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        stops=("<|endoftext|>", "<|user|>", "<|observation|>"),
        template=_GLM4,
    ),
    Kind(  # ChatGLM3
        tokenizer_class="ChatGLMTokenizer",
        marker="<|assistant|>",
        vocabulary="tokenizer.model",
        reader="sentencepiece",
        appended=(*_MASKS, "sop", "eop", *_ROLES),
        prefix=("[gMASK]", "sop"),
        tokens=_LLAMA_TOKENS,
        stops=("</s>", "<|user|>", "<|observation|>"),
        template=_CHATGLM3,
    ),
    Kind(  # ChatGLM2
        tokenizer_class="ChatGLMTokenizer",
        vocabulary="tokenizer.model",
        reader="sentencepiece",
        appended=(*_MASKS, "sop", "eop"),
        prefix=("[gMASK]", "sop"),
        tokens=_LLAMA_TOKENS,
        stops=("</s>",),
        template=_CHATGLM2,
    ),
    Kind(
        tokenizer_class="BaichuanTokenizer",
        vocabulary="tokenizer.model",
        reader="sentencepiece",
        bos=True,
        tokens=_LLAMA_TOKENS,
        stops=("</s>",),
        template=_BAICHUAN,
    ),
    Kind(
        tokenizer_class="InternLM2Tokenizer",
        vocabulary="tokenizer.model",
        reader="sentencepiece",
        named={
            **{92538: "<|plugin|>", 92539: "<|interpreter|>", 92540: "<|action_end|>", 92541: "<|action_start|>"},
            **{92542: "<|im_end|>", 92543: "<|im_start|>"},
        },
        bos=True,
        tokens={**_LLAMA_TOKENS, "pad_token": "</s>"},
        stops=("</s>", "<|im_end|>"),
        template="{{ bos_token }}" + _CHATML_TURNS,
    ),
)
