"""InternLM2: Llama with one joint projection, grouped by KV head, and names of its own."""

from exporters.architecture import Architecture
from exporters.parts import attention

ARCHITECTURE = Architecture(
    model_types=("internlm2",),
    layer_weights=(
        "attention_norm.weight",
        "attention.wqkv.weight",
        "attention.wo.weight",
        "ffn_norm.weight",
        "feed_forward.w1.weight",
        "feed_forward.w2.weight",
        "feed_forward.w3.weight",
    ),
    swaps=(
        attention("attention", ("wqkv",), "wo", order=lambda spec: "grouped", to="patches.attention:CachedAttention"),
    ),
    embed="model.tok_embeddings",
    head="output",
    rotary="model.layers.0.attention.rotary_emb",
    tables="patches.rotary:whole",
    remote=True,
)
