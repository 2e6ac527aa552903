"""Tiny random checkpoints, one row of data per case: real Hugging Face classes, seeded, every feature switched on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tiny:
    """`config`: what differs from COMMON. `dtype`: the checkpoint's."""

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"


COMMON = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 500,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES = {
    "llama": Tiny("llama"),
    "llama-rope-scaled-tied": Tiny("llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama-biased": Tiny("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2}, "bfloat16"),
    "qwen2": Tiny("qwen2", dtype="bfloat16"),
    "qwen2-tied": Tiny("qwen2", {"tie_word_embeddings": True, "num_attention_heads": 4}, "float16"),
}


def make(name: str, folder: Path, shard_bytes: int = 10**9, **config: Any) -> Path:
    """Write the checkpoint of a case into `folder` and return it; `config` changes the case."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    case = CASES[name]
    torch.manual_seed(0)
    settings = AutoConfig.for_model(case.model_type, **{**COMMON, **case.config, **config})
    model = AutoModelForCausalLM.from_config(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms and biases start as ones and zeros, which hides mistakes; matrices too small give flat logits.
            parameter.copy_(torch.randn_like(parameter) * 0.1 + (1.0 if parameter.dim() == 1 else 0.0))
    model.to(getattr(torch, case.dtype)).save_pretrained(folder, max_shard_size=shard_bytes)
    return folder
