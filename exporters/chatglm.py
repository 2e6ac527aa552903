"""ChatGLM2, ChatGLM3 and GLM-4 in their own code: one joint projection, rope on pairs in half of each head."""

from __future__ import annotations

from typing import Any

from contract.errors import UserError
from exporters.architecture import Architecture
from exporters.glm import rotary_size
from exporters.parts import attention
from exporters.spec import DecoderSpec, llama_like


def read(config: dict[str, Any]) -> DecoderSpec:
    """UserError for the first ChatGLM, another model of the same model_type, and for settings nobody published."""
    if "position_encoding_2d" in config:
        raise UserError("the first ChatGLM is another architecture", "config.json", "take ChatGLM2, ChatGLM3 or GLM-4")
    for name, wanted in (("multi_query_attention", True), ("post_layer_norm", True), ("original_rope", True)):
        if config.get(name, wanted) != wanted:
            remedy = "take the config.json of the original checkpoint"
            raise UserError(f"{name} other than {str(wanted).lower()} is not supported", "config.json", remedy)
    return llama_like(
        {**config, "vocab_size": config["padded_vocab_size"], "max_position_embeddings": config["seq_length"]},
        layers=config["num_layers"],
        kv_heads=config["multi_query_group_num"],
        head_dim=config["kv_channels"],
        intermediate=config["ffn_hidden_size"],
    )


ARCHITECTURE = Architecture(
    model_types=("chatglm",),
    layer_weights=(
        "input_layernorm.weight",
        "self_attention.query_key_value.weight",
        "self_attention.dense.weight",
        "post_attention_layernorm.weight",
        "mlp.dense_h_to_4h.weight",
        "mlp.dense_4h_to_h.weight",
    ),
    swaps=(attention("self_attention", ("query_key_value",), "dense", pairs=rotary_size),),
    embed="transformer.embedding.word_embeddings",
    layers="transformer.encoder.layers",
    norm="transformer.encoder.final_layernorm",
    head="transformer.output_layer",
    rotary="transformer.rotary_pos_emb",
    tables="patches.rotary:stacked_pairs",
    remote=True,
    read=read,
)
