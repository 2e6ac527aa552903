"""Tiny random checkpoints of models that see and bring their own code: one row of data per case, every feature on.

As in tests/remote_models.py the code is a package's real file where one carries it, else a fixture of the same shape.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import remote_models, vision_models
from tests.remote_models import INTERNLM2, RemoteTiny
from tests.vision_chats import CHATML

VOCABULARY = 128  # the fewer tokens, the fewer near-ties


@dataclass(frozen=True)
class Tiny:
    """`remote`: code, configuration and weights. `pictures`: preprocessor_config.json. `tokens`: special ones that the
    tokenizer has beside those of tests/vision_models.py. `beside`: tensors of parts that are left out, by their shapes.
    """

    remote: RemoteTiny
    pictures: dict[str, Any] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    beside: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        return str(self.remote.config["model_type"])


SIDE = 56  # 4 by 4 patches
# As published, but for the sizes, keys that all of transformers 4's files have, and `select_layer`, which is -1 there.
INTERNVL = {
    "model_type": "internvl_chat",
    "architectures": ["InternVLChatModel"],
    "downsample_ratio": 0.5,
    "dynamic_image_size": True,
    "force_image_size": SIDE,
    "max_dynamic_patch": 12,
    "min_dynamic_patch": 1,
    "pad2square": False,
    "ps_version": "v2",
    "select_layer": -1,
    "template": "internlm2-chat",
    "torch_dtype": "bfloat16",
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
    "use_thumbnail": True,
    "llm_config": {**INTERNLM2, "use_bfloat16": True, "vocab_size": VOCABULARY},
    "vision_config": {
        "architectures": ["InternVisionModel"],
        "attention_dropout": 0.0,
        "drop_path_rate": 0.1,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 64,
        "image_size": SIDE,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-06,
        "model_type": "intern_vit_6b",
        "norm_type": "layer_norm",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 3,
        "patch_size": 14,
        "qk_normalization": False,
        "qkv_bias": True,
        "torch_dtype": "bfloat16",
        "use_bfloat16": True,
        "use_flash_attn": True,
    },
}
QWEN2 = {
    "_name_or_path": "Qwen/Qwen2-0.5B-Instruct",
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "max_position_embeddings": 256,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCABULARY,
}
INTERNVL_CODE = ("configuration_internvl_chat.InternVLChatConfig", "modeling_internvl_chat.InternVLChatModel")
INTERNVL_PICTURES = {
    "crop_size": SIDE,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": SIDE,
}
# As published, but for the sizes, `image_token_id`, `drop_vision_last_layer` and `vision_batch_size`, which is 16.
MINICPM = {
    **{key: value for key, value in QWEN2.items() if key != "architectures"},
    "_name_or_path": "openbmb/MiniCPM-V-2_6",
    "version": 2.6,
    "architectures": ["MiniCPMV"],
    "model_type": "minicpmv",
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "batch_vision_input": True,
    "drop_vision_last_layer": True,
    "image_size": SIDE,
    "image_token_id": VOCABULARY - 1,
    "patch_size": 14,
    "query_num": 8,
    "slice_config": {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv"},
    "slice_mode": True,
    "vision_batch_size": 2,
    "vision_config": {
        "hidden_size": 64,
        "image_size": 140,
        "intermediate_size": 128,
        "model_type": "siglip",
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "patch_size": 14,
    },
}
MINICPM_PICTURES = {
    "image_processor_type": "MiniCPMVImageProcessor",
    "auto_map": {
        "AutoProcessor": "processing_minicpmv.MiniCPMVProcessor",
        "AutoImageProcessor": "image_processing_minicpmv.MiniCPMVImageProcessor",
    },
    "processor_class": "MiniCPMVProcessor",
    "max_slice_nums": 9,
    "scale_resolution": SIDE,
    "patch_size": 14,
    "use_image_id": True,
    "image_feature_size": 8,
    "im_start": "<image>",
    "im_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "unk": "<unk>",
    "im_id_start": "<image_id>",
    "im_id_end": "</image_id>",
    "slice_mode": True,
    "norm_mean": [0.5, 0.5, 0.5],
    "norm_std": [0.5, 0.5, 0.5],
    "version": 2.6,
}
MINICPM_TOKENS = ("</image>", "<slice>", "</slice>", "<image_id>", "</image_id>", "<unk>")
# What differs in MiniCPM-o's file; of its parts that hear and speak, a few keys.
OMNI = {
    "_name_or_path": "openbmb/MiniCPM-o-2_6",
    "version": "2.6",
    "architectures": ["MiniCPMO"],
    "model_type": "minicpmo",
    "init_vision": True,
    "init_audio": True,
    "init_tts": True,
    "audio_pool_step": 2,
    "audio_chunk_length": 1.0,
    "stream_input": True,
    "audio_config": {"model_type": "whisper", "d_model": 64, "encoder_layers": 2, "encoder_ffn_dim": 128},
    "tts_config": {"model_type": "conditional_chattts", "llm_dim": 256},
}
SOUND = {"apm.conv1.weight": (64, 80, 3), "audio_projection_layer.linear1.bias": (32,), "tts.emb_text.weight": (9, 8)}
CASES = {
    "minicpmv": Tiny(
        RemoteTiny(
            "minicpmv",
            ("configuration_minicpm.MiniCPMVConfig", "modeling_minicpmv.MiniCPMV"),
            MINICPM,
        ),
        MINICPM_PICTURES,
        MINICPM_TOKENS,
    ),
    "minicpmo": Tiny(
        RemoteTiny("minicpmv", ("configuration_minicpm.MiniCPMOConfig", "modeling_minicpmo.MiniCPMO"), MINICPM | OMNI),
        MINICPM_PICTURES | {"processor_class": "MiniCPMOProcessor"},
        MINICPM_TOKENS,
        SOUND,
    ),
    "internvl_chat": Tiny(RemoteTiny("internvl_chat", INTERNVL_CODE, INTERNVL), INTERNVL_PICTURES),
    "internvl_chat-qwen2": Tiny(
        RemoteTiny(
            "internvl_chat",
            INTERNVL_CODE,
            INTERNVL | {"llm_config": QWEN2, "template": "Hermes-2", "select_layer": -2, "torch_dtype": "float32"},
        ),
        INTERNVL_PICTURES,
    ),
}


def make(name: str, folder: Path, **config: Any) -> Path:
    """Write the checkpoint of a case into `folder`, without a tokenizer, and return it; `config` changes the case."""
    case = CASES[name]
    remote_models.write(case.remote, folder, **config)
    if case.beside:
        _add(folder / "model.safetensors", case.beside)
    _write(folder / "preprocessor_config.json", case.pictures)
    return folder


def _add(weights: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    others = {name: torch.ones(shape) for name, shape in shapes.items()}
    save_file(load_file(weights) | others, weights, metadata={"format": "pt"})


def write_processor(name: str, folder: Path, **config: Any) -> Path:
    """What a checkpoint has beside weights and code, with tests/vision_models.py's tokenizer, to which it adds `tokens`
    of its own; and return `folder`."""
    case = CASES[name]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "config.json", {**case.remote.config, **config})
    _write(folder / "preprocessor_config.json", case.pictures)
    tokenizer = vision_models.tokenizer()
    tokenizer.add_tokens(list(case.tokens), special_tokens=True)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    _write(path, json.loads(path.read_text(encoding="utf-8")) | {"chat_template": CHATML})
    return folder


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
