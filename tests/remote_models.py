"""Tiny random checkpoints that bring their own code: one row of data per case, every feature switched on.

The code is a package's real file where one carries it (tests/real_code.py), else a fixture of the same shape.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import real_code, tiny


@dataclass(frozen=True)
class RemoteTiny:
    """`code`: a row of real_code.WHEELS or a folder in remote_fixtures. `auto_map`: configuration and model class.
    `seed`: of its weights."""

    code: str
    auto_map: tuple[str, str]
    config: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


# As published, but for the sizes. `seq_length` is shorter than any prompt of the tests: NTK and logn set in beyond it.
QWEN = {
    "model_type": "qwen",
    "architectures": ["QWenLMHeadModel"],
    "attn_dropout_prob": 0.0,
    "bf16": False,
    "emb_dropout_prob": 0.0,
    "fp16": False,
    "fp32": False,
    "hidden_size": 128,
    "intermediate_size": 512,
    "initializer_range": 0.02,
    "kv_channels": 32,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 256,
    "no_bias": True,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "onnx_safe": None,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 15,
    "tie_word_embeddings": False,
    "use_cache": True,
    "use_dynamic_ntk": True,
    "use_flash_attn": "auto",
    "use_logn_attn": True,
    "vocab_size": 500,
}
# The file in ModelScope is older than the last published one, and asks for these names as well.
QWEN_OLD = {
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "ffn_hidden_size": 512,
    "n_embd": 128,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 256,
    "padded_vocab_size": 500,
    "params_dtype": "torch.float32",
    "pos_emb": "rotary",
}
BAICHUAN = {
    "model_type": "baichuan",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 500,
}
CHATGLM = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "ffn_hidden_size": 256,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 128,
    "kv_channels": 32,
    "layernorm_epsilon": 1e-5,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "original_rope": True,
    "padded_vocab_size": 500,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 256,
    "use_cache": True,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
}
INTERNLM2 = {
    "model_type": "internlm2",
    "architectures": ["InternLM2ForCausalLM"],
    "attn_implementation": "eager",
    "bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 500,
    "pretraining_tp": 1,
}
QWEN_CODE = ("modeling_qwen.QWenConfig", "modeling_qwen.QWenLMHeadModel")
CHATGLM_CODE = ("modeling_chatglm.ChatGLMConfig", "modeling_chatglm.ChatGLMForConditionalGeneration")
BAICHUAN_CODE = ("configuration_baichuan.BaichuanConfig", "modeling_baichuan.BaichuanForCausalLM")
CASES = {
    "qwen": RemoteTiny("qwen", QWEN_CODE, QWEN | QWEN_OLD),
    "qwen-hub": RemoteTiny(
        "qwen_hub", ("Qwen/Qwen-7B--configuration_qwen.QWenConfig", "modeling_qwen.QWenLMHeadModel"), QWEN
    ),
    "baichuan-v1": RemoteTiny(
        "baichuan-v1",
        ("configuration_baichuan.BaiChuanConfig", "modeling_baichuan.BaiChuanForCausalLM"),
        BAICHUAN | {"architectures": ["BaiChuanForCausalLM"], "max_position_embeddings": 256},
    ),
    "baichuan-7b": RemoteTiny(
        "baichuan2_7b",
        BAICHUAN_CODE,
        BAICHUAN
        | {"architectures": ["BaichuanForCausalLM"], "max_position_embeddings": 256, "model_max_length": 256}
        | {"z_loss_weight": 0, "_from_model_config": True},
    ),
    "baichuan-13b": RemoteTiny(
        "baichuan2_13b",
        BAICHUAN_CODE,
        # 40 heads in the published model: no power of two, so that slopes come from two series.
        BAICHUAN
        | {"architectures": ["BaichuanForCausalLM"], "model_max_length": 256, "num_attention_heads": 6}
        | {"hidden_size": 192, "gradient_checkpointing": False, "z_loss_weight": 0, "_from_model_config": True},
        seed=1,  # 0 gives logits too flat to show a mistake
    ),
    "chatglm2": RemoteTiny("chatglm2", CHATGLM_CODE, CHATGLM),
    # ChatGLM3's file differs from ChatGLM2's in chat(), tools and a class for classification only.
    "chatglm3": RemoteTiny("chatglm2", CHATGLM_CODE, CHATGLM | {"num_attention_heads": 8, "kv_channels": 16}),
    "glm4-chat": RemoteTiny(
        "glm4",
        ("configuration_chatglm.ChatGLMConfig", "modeling_chatglm.ChatGLMForConditionalGeneration"),
        CHATGLM
        | {"rope_ratio": 500, "layernorm_epsilon": 1.5625e-07, "torch_dtype": "bfloat16", "eos_token_id": [1, 2, 3]}
        | {"pad_token_id": 1, "classifier_dropout": None},
    ),
    "internlm2": RemoteTiny(
        "internlm2",
        ("configuration_internlm2.InternLM2Config", "modeling_internlm2.InternLM2ForCausalLM"),
        INTERNLM2,
    ),
}


def make(name: str, folder: Path, **config: Any) -> Path:
    """Write the checkpoint of a case into `folder` and return it; `config` changes the case's config.json."""
    return write(CASES[name], folder, **config)


def write(case: RemoteTiny, folder: Path, **config: Any) -> Path:
    """The same of a case that need not be one of CASES."""
    import torch
    from safetensors.torch import save_file

    from exporters import remote

    folder.mkdir(parents=True, exist_ok=True)
    if case.code in real_code.WHEELS:
        real_code.place(case.code, folder)
    else:
        shutil.copytree(real_code.FIXTURES / case.code, folder, dirs_exist_ok=True, ignore=lambda *_: ["__pycache__"])
    auto_map = dict(zip(("AutoConfig", "AutoModelForCausalLM"), case.auto_map, strict=True))
    settings = {**case.config, **config, "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")

    model = remote.empty(*reversed(remote.load(folder)))
    generator = torch.Generator().manual_seed(case.seed)
    dtype = getattr(torch, settings.get("torch_dtype", "float32"))
    tensors = {}
    for key, tensor in model.state_dict().items():
        if tensor.is_meta:
            tensor = tiny.values(
                tensor.shape, generator, 1.0 if tensor.dim() == 1 and not key.endswith("bias") else 0.0
            )
        tensors[key] = tensor.to(dtype).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
