"""Tiny random vision-language checkpoints with the files of their tokenizers and processors: real Hugging Face classes,
seeded, one row of data per case. The settings that pictures are prepared by are the published ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tiny import COMMON, THETA, WINDOW, values
from tests.vision_chats import GEMMA_CHAT, GLM_CHAT, INTERN_CHAT, JANUS_CHAT, LLAVA_CHAT, QWEN3_CHAT, QWEN_CHAT

VOCABULARY, LEARNED = 600, 570
# The first ones as they are numbered at the end of Qwen's published vocabularies.
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
    # Of other families.
    *("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    *("<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    "<image>",
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>"),
)
IDS = {token: LEARNED + i for i, token in enumerate(SPECIAL)}
WORDS = (
    "You are a helpful assistant. system user assistant. Describe this picture. Describe this video. What is in the"
    " picture? Which of the two pictures shows more? Say what you see in these pictures, in one line. Hello, who are"
    " you? There is a red square on a green ground, and a blue one beside it; the smaller of the two moves to the left."
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
GLM_PICTURES = {
    "size": {"shortest_edge": 12544, "longest_edge": 9633792},
    "do_rescale": True,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "processor_class": "Glm4vProcessor",
    "image_processor_type": "Glm4vImageProcessor",
}
GLM_VIDEOS = {
    **GLM_PICTURES,
    "size": {"shortest_edge": 12544, "longest_edge": 47040000},
    "video_processor_type": "Glm4vVideoProcessor",
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
    template. `flat`: config.json has the text's settings beside vision_config, as it was published; `spread`: those of
    rope beside the text's others. `processor`:
    processor_config.json, where there is one. `tokens`: special tokens by the names that a processor knows them by.
    """

    model_type: str
    text: dict[str, Any]
    vision: dict[str, Any]
    pictures: dict[str, Any]
    chat: str
    config: dict[str, Any] = field(default_factory=dict)
    videos: dict[str, Any] = field(default_factory=dict)
    flat: bool = False
    spread: bool = False
    processor: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)


QWEN_IDS = {
    "image_token_id": IDS["<|image_pad|>"],
    "video_token_id": IDS["<|video_pad|>"],
    "vision_start_token_id": IDS["<|vision_start|>"],
    "vision_end_token_id": IDS["<|vision_end|>"],
}
# A head's 64 dimensions turn as 2 * (8 + 12 + 12), the published ratio of time, height and width.
MROPE = {"rope_type": "default", "rope_theta": THETA, "mrope_section": [8, 12, 12]}
SIDE = 56
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
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
    "glm4v": Tiny(
        "glm4v",
        {
            # Half of a head's 64 dimensions turn, as 2 * (4 + 6 + 6).
            "rope_parameters": {**MROPE, "mrope_section": [4, 6, 6], "partial_rotary_factor": 0.5},
            "max_position_embeddings": 512,
        },
        {
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_heads": 2,
            "out_hidden_size": COMMON["hidden_size"],
            "image_size": 70,  # learned positions of 5 by 5 patches
        },
        GLM_PICTURES,
        GLM_CHAT,
        {
            "image_token_id": IDS["<|image|>"],
            "video_token_id": IDS["<video>"],
            "image_start_token_id": IDS["<|begin_of_image|>"],
            "image_end_token_id": IDS["<|end_of_image|>"],
            "video_start_token_id": IDS["<|begin_of_video|>"],
            "video_end_token_id": IDS["<|end_of_video|>"],
        },
        GLM_VIDEOS,
        spread=True,
        tokens={"image_token": "<|image|>", "video_token": "<video>"},
    ),
    # Towers of one size: 4 by 4 patches.
    "internvl": Tiny(
        "internvl",
        {"model_type": "qwen2"},
        {**SMALL, "image_size": [SIDE, SIDE], "patch_size": [14, 14]},
        {
            "crop_to_patches": False,
            "min_patches": 1,
            "max_patches": 4,
            "size": {"height": SIDE, "width": SIDE},
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "processor_class": "InternVLProcessor",
            "image_processor_type": "GotOcr2ImageProcessor",
        },
        INTERN_CHAT,
        {"image_token_id": IDS["<IMG_CONTEXT>"], "image_seq_length": 4, "downsample_ratio": 0.5},
        processor={"image_seq_length": 4, "processor_class": "InternVLProcessor"},
        tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
    "gemma3_image": Tiny(
        "gemma3",
        {
            "model_type": "gemma3_text",
            **WINDOW,
            "query_pre_attn_scalar": 48,
            "sliding_window_pattern": 3,
            "tie_word_embeddings": True,
        },
        {**SMALL, "model_type": "siglip_vision_model", "image_size": SIDE, "patch_size": 14},
        {
            "size": {"height": SIDE, "width": SIDE},
            "do_pan_and_scan": None,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "image_seq_length": 4,
            "processor_class": "Gemma3Processor",
            "image_processor_type": "Gemma3ImageProcessor",
        },
        GEMMA_CHAT,
        {
            "mm_tokens_per_image": 4,
            "image_token_index": IDS["<image_soft_token>"],
            "boi_token_index": IDS["<start_of_image>"],
            "eoi_token_index": IDS["<end_of_image>"],
        },
        processor={"image_seq_length": 4, "processor_class": "Gemma3Processor"},
        tokens={"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
    ),
    "llava": Tiny(
        "llava",
        {"model_type": "llama"},
        {
            **SMALL,
            "num_hidden_layers": 3,
            "model_type": "clip_vision_model",
            "image_size": SIDE,
            "patch_size": 14,
            "projection_dim": 64,
        },
        {
            "size": {"shortest_edge": SIDE},
            "crop_size": {"height": SIDE, "width": SIDE},
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "processor_class": "LlavaProcessor",
            "image_processor_type": "CLIPImageProcessor",
        },
        LLAVA_CHAT,
        {"image_token_index": IDS["<image>"], "image_seq_length": 16},
        processor={
            "image_token": "<image>",
            "patch_size": 14,
            "num_additional_image_tokens": 1,
            "vision_feature_select_strategy": "default",
            "processor_class": "LlavaProcessor",
        },
        tokens={"image_token": "<image>"},
    ),
    "janus": Tiny(
        "janus",
        {"model_type": "llama"},
        {
            **{key: value for key, value in SMALL.items() if key != "intermediate_size"},
            "mlp_ratio": 2,
            "image_size": SIDE,
            "patch_size": 14,
            "projection_dim": COMMON["hidden_size"],
            "num_image_tokens": 16,
        },
        {
            "size": {"height": SIDE, "width": SIDE},
            "min_size": 14,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "JanusProcessor",
            "image_processor_type": "JanusImageProcessor",
        },
        JANUS_CHAT,
        {
            "image_token_id": IDS["<image>"],
            "vq_config": {
                "base_channels": 32,
                "channel_multiplier": [1],
                "num_res_blocks": 1,
                "latent_channels": 32,
                "num_embeddings": 16,
                "projection_dim": 8,
                "image_token_embed_dim": COMMON["hidden_size"],
            },
        },
        processor={"num_image_tokens": 16, "processor_class": "JanusProcessor"},
        tokens={"image_token": "<image>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
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
    if case.spread:
        _spread(folder / "config.json")
    write_processor(name, folder)
    return folder


def bare(name: str, folder: Path, vocab: int = 128, **config: Any) -> Path:
    """The same without its tokenizer, and with a smaller vocabulary: the fewer tokens, the fewer near-ties."""
    placeholders = {key: vocab - 1 - i for i, key in enumerate(k for k in CASES[name].config if "_token_i" in k)}
    text = {"vocab_size": vocab, "bos_token_id": 1, "eos_token_id": 2}
    make(name, folder, text_config=text, **placeholders, **config)
    for file in folder.glob("*token*"):
        file.unlink()
    return folder


def for_vendor(name: str, folder: Path, dtype: str = "bfloat16") -> Path:
    """A bare checkpoint of Qwen2-VL or one of its successors, as llm_convert takes it: its config.json says all that
    those first published say, and heads of the tower have their 80 dimensions."""
    tower = {"qwen2_vl": "embed_dim", "qwen2_5_vl": "hidden_size"}
    vision = {tower[name]: 160, "in_chans": 3} if name in tower else {}
    bare(name, folder, dtype=dtype, vision_config=vision)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if name == "qwen2_5_vl":
        _flatten(path)
    elif name == "qwen3_vl":
        config["text_config"]["rope_scaling"] = config["text_config"].pop("rope_parameters")
        config["text_config"]["rope_theta"] = THETA
        _write(path, config)
    return folder


def _flatten(config: Path) -> None:
    nested = json.loads(config.read_text())
    text = nested.pop("text_config")
    rope = text.pop("rope_parameters")
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    vision = {key: value for key, value in nested["vision_config"].items() if key != "rope_parameters"}
    published = {**text, "rope_theta": rope["rope_theta"], "rope_scaling": scaling, **nested, "vision_config": vision}
    _write(config, {key: value for key, value in published.items() if key != "layer_types"})


def _spread(config: Path) -> None:
    published = json.loads(config.read_text())
    text = published["text_config"]
    rope = text.pop("rope_parameters")
    text |= {key: rope.pop(key) for key in ("rope_theta", "partial_rotary_factor")} | {"rope_scaling": rope}
    _write(config, published)


def write_processor(name: str, folder: Path) -> None:
    """Write what a published checkpoint has beside its weights: tokenizer, chat template, and how pictures are made."""
    case = CASES[name]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
        _write(folder / "config.json", {"model_type": case.model_type})
    tokenizer().save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"chat_template": case.chat, "processor_class": case.pictures["processor_class"], "bos_token": "<bos>"}
    if case.tokens:
        settings["extra_special_tokens"] = case.tokens
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "chat_template.json", {"chat_template": case.chat})
    _write(folder / "preprocessor_config.json", case.pictures)
    if case.processor:
        _write(folder / "processor_config.json", case.processor)
    if case.videos:
        _write(folder / "video_preprocessor_config.json", case.videos)


def tokenizer() -> Any:
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
    made = Qwen2Tokenizer(vocab=vocabulary, merges=merges, eos_token="<|im_end|>")
    made.add_tokens(list(SPECIAL), special_tokens=True)
    return made


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n")
