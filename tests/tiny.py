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
    "pad_token_id": 0,
}
THETA = 10000.0
GROUP, STEP = 32, 3 / 128  # 16 levels of this step deviate by 0.108
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": THETA,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Prompts of the tests have 16 tokens or more: they begin beyond the length of the first regime.
DYNAMIC = {"rope_type": "dynamic", "rope_theta": THETA, "factor": 96 / 8}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": THETA,
    "short_factor": [1.0 + i / 50 for i in range(24)],
    "long_factor": [1.5 + i / 10 for i in range(24)],
    "original_max_position_embeddings": 8,
    "partial_rotary_factor": 0.75,
}
BIGCODE = {"n_embd": 128, "n_head": 2, "n_layer": 3, "n_inner": 256, "n_positions": 128}
FALCON = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "parallel_attn": True, "bias": False, "ffn_hidden_size": 256}
WINDOW = {"sliding_window": 24, "num_hidden_layers": 3, "head_dim": 32}
LATENT = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
}
EXPERTS = {
    "q_lora_rank": None,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.0,
    "topk_method": "greedy",
    "n_group": 1,
    "topk_group": 1,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": THETA,
    "factor": 4.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 64,
}
CASES = {
    "llama": Tiny("llama"),
    "llama-rope-scaled-tied": Tiny("llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama-biased": Tiny("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2}, "bfloat16"),
    "llama-dynamic": Tiny("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 8}),
    "qwen2": Tiny("qwen2", dtype="bfloat16"),
    "qwen2-tied": Tiny("qwen2", {"tie_word_embeddings": True, "num_attention_heads": 4, "vocab_size": 128}, "float16"),
    "mistral": Tiny("mistral", {"sliding_window": 24}),
    "qwen3": Tiny("qwen3", {"head_dim": 32, "num_attention_heads": 4, "num_key_value_heads": 2}),
    "phi3": Tiny("phi3", {"sliding_window": 24}),
    "phi3-longrope": Tiny("phi3", {"rope_parameters": LONGROPE, "partial_rotary_factor": 0.75}),
    "gemma": Tiny("gemma", {"head_dim": 128, "num_hidden_layers": 2, "tie_word_embeddings": True}),
    "gemma2": Tiny("gemma2", {**WINDOW, "query_pre_attn_scalar": 48, "tie_word_embeddings": True}),
    "gemma3": Tiny("gemma3_text", {**WINDOW, "query_pre_attn_scalar": 48, "sliding_window_pattern": 3}),
    "glm": Tiny("glm", {"head_dim": 64, "attention_bias": True}),
    "glm4": Tiny("glm4", {"head_dim": 64, "attention_bias": True}),
    "falcon-7b": Tiny("falcon", {**FALCON, "multi_query": True, "new_decoder_architecture": False, "vocab_size": 200}),
    "falcon-40b": Tiny(
        "falcon",
        {**FALCON, "num_attention_heads": 4, "num_kv_heads": 2, "new_decoder_architecture": True},
    ),
    "gpt_bigcode": Tiny("gpt_bigcode", {**BIGCODE, "multi_query": True, "tie_word_embeddings": True}),
    "minicpm3": Tiny(
        "minicpm3", {**LATENT, "q_lora_rank": 96, "scale_emb": 3, "dim_model_base": 64, "scale_depth": 1.4}
    ),
    "deepseek_v2": Tiny("deepseek_v2", {**LATENT, **EXPERTS, "rope_parameters": YARN}),
}


def values(shape: Any, generator: Any, center: float = 0.0) -> Any:
    """Random values for a parameter, float32, of deviation 0.1: norms and biases that start as ones and zeros would
    hide mistakes, and matrices much smaller than this give flat logits.

    Rows of matrices lie, by groups of 32, on 16 levels of a bfloat16 step that include both ends: int4 in groups of 32
    can hold them exactly, so that what it turns into another token is a mistake and not rounding.
    """
    import torch

    if len(shape) < 2 or shape[-1] % GROUP:
        return center + 0.1 * torch.randn(shape, generator=generator)
    levels = torch.randint(-8, 8, shape, generator=generator).view(-1, GROUP)
    levels[:, 0], levels[:, 1] = -8, 7
    order = torch.argsort(torch.rand(levels.shape, generator=generator), dim=1)
    return (levels.gather(1, order) * STEP).view(shape)


def make(name: str, folder: Path, shard_bytes: int = 10**9, **config: Any) -> Path:
    """Write the checkpoint of a case into `folder` and return it; `config` changes the case."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    case = CASES[name]
    settings = AutoConfig.for_model(case.model_type, **{**COMMON, **case.config, **config})
    model = AutoModelForCausalLM.from_config(settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(values(parameter.shape, generator, 1.0 if parameter.dim() == 1 else 0.0))
    model.to(getattr(torch, case.dtype)).save_pretrained(folder, max_shard_size=shard_bytes)
    return folder
