"""Tiny random vision-language checkpoints with the files of their tokenizers and processors: real Hugging Face classes,
seeded, one row of data per case. The settings that pictures are prepared by are the published ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tiny import COMMON, THETA, values

VOCABULARY, LEARNED = 600, 570
# As they are numbered at the end of the published vocabularies.
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
IDS = {token: LEARNED + i for i, token in enumerate(SPECIAL)}
WORDS = (
    "You are a helpful assistant. system user assistant. Describe this picture. Describe this video. What is in the"
    " picture? Which of the two pictures shows more? Say what you see in these pictures, in one line. Hello, who are"
    " you? There is a red square on a green ground, and a blue one beside it; the smaller of the two moves to the left."
)
QWEN_CHAT = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "<|im_end|>\n{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in"
    " content or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}"
    "Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] =="
    " 'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video"
    " {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% endif %}"
)
QWEN3_CHAT = (
    "{%- set image_count = namespace(value=0) %}\n{%- set video_count = namespace(value=0) %}\n{%- for message in"
    " messages %}\n    {{- '<|im_start|>' + message.role + '\\n' }}\n    {%- if message.content is string %}\n"
    "        {{- message.content }}\n    {%- else %}\n        {%- for content in message.content %}\n"
    "            {%- if content.type == 'image' or 'image' in content or 'image_url' in content %}\n"
    "                {%- set image_count.value = image_count.value + 1 %}\n"
    "                {%- if add_vision_id %}Picture {{ image_count.value }}: {% endif -%}\n"
    "                <|vision_start|><|image_pad|><|vision_end|>\n"
    "            {%- elif content.type == 'video' or 'video' in content %}\n"
    "                {%- set video_count.value = video_count.value + 1 %}\n"
    "                {%- if add_vision_id %}Video {{ video_count.value }}: {% endif -%}\n"
    "                <|vision_start|><|video_pad|><|vision_end|>\n            {%- elif 'text' in content %}\n"
    "                {{- content.text }}\n            {%- endif %}\n        {%- endfor %}\n    {%- endif %}\n"
    "    {{- '<|im_end|>\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
)
QWEN_PICTURES = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
}
QWEN3_PICTURES = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
}
QWEN3_VIDEOS = {
    **QWEN3_PICTURES,
    "size": {"longest_edge": 25165824, "shortest_edge": 4096},
    "video_processor_type": "Qwen3VLVideoProcessor",
}


@dataclass(frozen=True)
class Tiny:
    """`text`, `vision`: what differs from COMMON and what the tower needs; `config`: what stands beside the two.
    `pictures`, `videos`: preprocessor_config.json, and video_preprocessor_config.json where there is one. `chat`: the
    template. `flat`: config.json has the text's settings beside vision_config, as it was published."""

    model_type: str
    text: dict[str, Any]
    vision: dict[str, Any]
    pictures: dict[str, Any]
    chat: str
    config: dict[str, Any] = field(default_factory=dict)
    videos: dict[str, Any] = field(default_factory=dict)
    flat: bool = False


QWEN_IDS = {
    "image_token_id": IDS["<|image_pad|>"],
    "video_token_id": IDS["<|video_pad|>"],
    "vision_start_token_id": IDS["<|vision_start|>"],
    "vision_end_token_id": IDS["<|vision_end|>"],
}
# A head's 64 dimensions turn as 2 * (8 + 12 + 12), the published ratio of time, height and width.
MROPE = {"rope_type": "default", "rope_theta": THETA, "mrope_section": [8, 12, 12]}
CASES = {
    "qwen2_5_vl": Tiny(
        "qwen2_5_vl",
        {"rope_parameters": MROPE, "max_position_embeddings": 512},
        {
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": COMMON["hidden_size"],
            "fullatt_block_indexes": [1, 3],
            "window_size": 56,
            "tokens_per_second": 2,
        },
        {**QWEN_PICTURES, "processor_class": "Qwen2_5_VLProcessor"},
        QWEN_CHAT,
        QWEN_IDS,
    ),
    "qwen2_vl": Tiny(
        "qwen2_vl",
        {"rope_parameters": MROPE, "max_position_embeddings": 512, "tie_word_embeddings": True},
        {"depth": 3, "embed_dim": 64, "hidden_size": COMMON["hidden_size"], "mlp_ratio": 2, "num_heads": 2},
        {**QWEN_PICTURES, "processor_class": "Qwen2VLProcessor"},
        QWEN_CHAT,
        QWEN_IDS,
        flat=True,
    ),
    "qwen3_vl": Tiny(
        "qwen3_vl",
        {
            "rope_parameters": {**MROPE, "mrope_section": [12, 10, 10], "mrope_interleaved": True},
            "max_position_embeddings": 512,
            "head_dim": 64,
            "num_hidden_layers": 3,  # one more than get features of the tower
        },
        {
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": COMMON["hidden_size"],
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 2],
        },
        QWEN3_PICTURES,
        QWEN3_CHAT,
        QWEN_IDS,
        QWEN3_VIDEOS,
    ),
}


def make(name: str, folder: Path, dtype: str = "float32", **config: Any) -> Path:
    """Write the checkpoint of a case into `folder` and return it. `config` changes the case: `text_config` and
    `vision_config` are merged into its own, all else stands beside them."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    case = CASES[name]
    common = {**COMMON, "vocab_size": VOCABULARY, "pad_token_id": None}
    ends = {"bos_token_id": IDS["<|endoftext|>"], "eos_token_id": IDS["<|im_end|>"]}
    text = {**common, **ends, **case.text, **config.pop("text_config", {})}
    vision = {**case.vision, **config.pop("vision_config", {})}
    beside = {"tie_word_embeddings": text["tie_word_embeddings"], **case.config, **config}
    settings = AutoConfig.for_model(case.model_type, text_config=text, vision_config=vision, **beside)
    model = AutoModelForImageTextToText.from_config(settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            # Biases of about one would drown what a picture changes: of Qwen2-VL's logits, 0.01 in place of 0.3.
            norm = parameter.dim() == 1 and not path.endswith("bias")
            parameter.copy_(values(parameter.shape, generator, 1.0 if norm else 0.0))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    if case.flat:
        _flatten(folder / "config.json")
    write_processor(name, folder)
    return folder


def _flatten(config: Path) -> None:
    nested = json.loads(config.read_text())
    text = nested.pop("text_config")
    rope = text.pop("rope_parameters")
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    vision = {key: value for key, value in nested["vision_config"].items() if key != "rope_parameters"}
    published = {**text, "rope_theta": rope["rope_theta"], "rope_scaling": scaling, **nested, "vision_config": vision}
    _write(config, {key: value for key, value in published.items() if key != "layer_types"})


def write_processor(name: str, folder: Path) -> None:
    """Write what a published checkpoint has beside its weights: tokenizer, chat template, and how pictures are made."""
    case = CASES[name]
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer().save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"chat_template": case.chat, "processor_class": case.pictures["processor_class"]}
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "chat_template.json", {"chat_template": case.chat})
    _write(folder / "preprocessor_config.json", case.pictures)
    if case.videos:
        _write(folder / "video_preprocessor_config.json", case.videos)


def _tokenizer() -> Any:
    """Byte-level BPE with merges enough for WORDS, and the special tokens at IDS; all below VOCABULARY."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        [WORDS], trainers.BpeTrainer(vocab_size=LEARNED, initial_alphabet=alphabet, show_progress=False)
    )
    learned = json.loads(learner.to_str())["model"]
    vocabulary = learned["vocab"]
    # The special tokens stand at IDS, whatever number of merges there was to learn.
    vocabulary |= {f"<|unused_{i}|>": i for i in range(len(vocabulary), LEARNED)} | IDS
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, eos_token="<|im_end|>")
    tokenizer.add_tokens(list(SPECIAL), special_tokens=True)
    return tokenizer


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n")
