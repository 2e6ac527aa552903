"""The nets of a decoder bmodel: names, tensor names, shapes and dtypes.

This is the only place that spells them. They equal what tpu-mlir's `llm_convert` produces, so the vendor's
C++ demos load our bmodels and our runtime loads theirs. Where llm_convert leaves an internal name on an output
(`lm_head.reshape_f32`, `Softmax1`) ours differs by name and agrees by position, shape and dtype.

Shapes are in elements. S is the built sequence length, T the positions that a prefill net takes at once, H the hidden
size, K the KV heads, D the head size, V the vocabulary, N the conversations of one decode step (1, unless built for
more). Where attention is latent (MLA), k is the compressed latent and v the rotated key that all heads share, each as
one head: that is all its cache holds. `half` is the chip's storage type for activations: bfloat16, or float16 in mode
f16; the ONNX graph of the same net carries float32 in its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from contract.lora import Adapted

INT32 = "int32"
FLOAT32 = "float32"
BFLOAT16 = "bfloat16"
FLOAT16 = "float16"
HALVES = (BFLOAT16, FLOAT16)

EMBEDDING = "embedding"
EMBEDDING_CACHE = "embedding_cache"
LM_HEAD = "lm_head"
GREEDY_HEAD = "greedy_head"
SAMPLE_HEAD = "sample_head"
BLOCK = "block"
BLOCK_CACHE = "block_cache"
BLOCK_KV = "block_kv"
VIT = "vit"
ADD = "add"
KINDS = (EMBEDDING, EMBEDDING_CACHE, BLOCK, BLOCK_CACHE, BLOCK_KV, LM_HEAD, GREEDY_HEAD, SAMPLE_HEAD, VIT, ADD)

LAYER_KINDS = (BLOCK, BLOCK_CACHE, BLOCK_KV)

# The table of a decoder without nets for it: rows [V, H] of what goes into the first layer, in the half type, and
# nothing else. llm_convert's name and form under --embedding_disk.
EMBEDDING_FILE = "embedding.bin"

# How many of the likeliest tokens sample_head looks at (the vendor's number).
SAMPLE_CANDIDATES = 50

# What the mask adds to the score of a hidden position. Finite, so that a fully masked (padding) row gives no NaN;
# within float16's range; far enough down that its exp() is 0 in either half type.
MASKED = -10000.0


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a net."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class GraphSpec:
    """One net: `kind` is one of KINDS; `layer` is its index, or None for nets that exist once."""

    name: str
    kind: str
    layer: int | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def as_onnx(self) -> GraphSpec:
        """The same net as the exporter writes it: float32 wherever the chip stores a half type."""

        def widen(t: TensorSpec) -> TensorSpec:
            return replace(t, dtype=FLOAT32) if t.dtype in HALVES else t

        return replace(self, inputs=tuple(map(widen, self.inputs)), outputs=tuple(map(widen, self.outputs)))


@dataclass(frozen=True)
class Geometry:
    """The sizes that fix every shape of a decoder built for `seq_length` positions, of which a prefill net takes
    `input_length` at once; 0 means all. `axes`: numbers that make one position: 3 with M-RoPE (time, height, width).
    `batch`: N, conversations that a decode step takes on at once; more than 1 only where `axes` is 1. `lora`: in each
    layer, in the order of its nets' inputs, behind all others."""

    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    vocab: int
    seq_length: int
    half: str = BFLOAT16
    input_length: int = 0
    axes: int = 1
    batch: int = 1
    lora: tuple[Adapted, ...] = ()

    @property
    def prefill_length(self) -> int:
        """T: positions of a prefill net."""
        return self.input_length or self.seq_length


def layer_name(kind: str, layer: int) -> str:
    """Of the net of `kind`, one of LAYER_KINDS."""
    return f"{kind}_{layer}"


def block_name(layer: int) -> str:
    return layer_name(BLOCK, layer)


def block_cache_name(layer: int) -> str:
    return layer_name(BLOCK_CACHE, layer)


def block_kv_name(layer: int) -> str:
    return layer_name(BLOCK_KV, layer)


def embedding(g: Geometry) -> GraphSpec:
    """Token ids of a prompt, or of a chunk of one, to hidden states."""
    return _embedding(g, EMBEDDING, 1, g.prefill_length)


def embedding_cache(g: Geometry) -> GraphSpec:
    """The token ids of one decode step to their hidden states."""
    return _embedding(g, EMBEDDING_CACHE, g.batch, 1)


def _embedding(g: Geometry, name: str, rows: int, length: int) -> GraphSpec:
    return GraphSpec(
        name,
        name,
        None,
        (TensorSpec("input_ids", (rows, length), INT32),),
        (TensorSpec(name, (rows, length, g.hidden), g.half),),
    )


def block(g: Geometry, layer: int) -> GraphSpec:
    """One layer over the first T positions of a prompt (prefill). Masked positions hold MASKED, visible ones 0."""
    t = g.prefill_length
    inputs = _block_inputs(g, 1, t, t) + lora_inputs(g)
    return GraphSpec(block_name(layer), BLOCK, layer, inputs, _block_outputs(g, 1, t))


def block_cache(g: Geometry, layer: int) -> GraphSpec:
    """One layer, one decode step of N conversations, each over a KV cache of S positions; returns only the new step's
    k and v."""
    inputs = _block_inputs(g, g.batch, 1, g.seq_length + 1) + _history(g, g.batch) + lora_inputs(g)
    return GraphSpec(block_cache_name(layer), BLOCK_CACHE, layer, inputs, _block_outputs(g, g.batch, 1))


def block_kv(g: Geometry, layer: int) -> GraphSpec:
    """One layer over T further positions of a prompt or a conversation (prefill over a KV cache of S positions);
    returns only their k and v. In the mask the cache comes first, then the T positions themselves."""
    t = g.prefill_length
    inputs = _block_inputs(g, 1, t, g.seq_length + t) + _history(g, 1) + lora_inputs(g)
    return GraphSpec(block_kv_name(layer), BLOCK_KV, layer, inputs, _block_outputs(g, 1, t))


def layer_nets(g: Geometry, layer: int, history: bool) -> tuple[GraphSpec, ...]:
    """The nets of one layer. They share its weights."""
    nets = block(g, layer), block_cache(g, layer)
    return (*nets, block_kv(g, layer)) if history else nets


def lora_inputs(g: Geometry) -> tuple[TensorSpec, ...]:
    """Of a layer's nets: the two matrices of each module that takes an adapter."""
    return tuple(TensorSpec(name, shape, g.half) for each in g.lora for name, shape in each.shapes)


def _history(g: Geometry, rows: int) -> tuple[TensorSpec, ...]:
    names = zip(("history_k", "history_v"), _kv(g), strict=True)
    return tuple(TensorSpec(name, (rows, g.seq_length, *kv), g.half) for name, kv in names)


def _block_inputs(g: Geometry, rows: int, length: int, visible: int) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("input_states", (rows, length, g.hidden), g.half),
        TensorSpec("position_ids", (rows * g.axes, length), INT32),
        TensorSpec("attention_mask", (rows, 1, length, visible), g.half),
    )


def _block_outputs(g: Geometry, rows: int, length: int) -> tuple[TensorSpec, ...]:
    k, v = _kv(g)
    return (
        TensorSpec("output_states", (rows, length, g.hidden), g.half),
        TensorSpec("k_cache", (rows, length, *k), g.half),
        TensorSpec("v_cache", (rows, length, *v), g.half),
    )


def _kv(g: Geometry) -> tuple[tuple[int, int], tuple[int, int]]:
    return (g.kv_heads, g.head_dim), (g.kv_heads, g.v_head_dim)


def lm_head(g: Geometry, top1: bool) -> GraphSpec:
    """Final norm and vocabulary projection of one position of each of N conversations; `top1` fuses the argmax, else
    float32 logits."""
    out = TensorSpec("token_id", (g.batch, 1), INT32) if top1 else TensorSpec("m_logits", (g.batch, g.vocab), FLOAT32)
    return GraphSpec(LM_HEAD, LM_HEAD, None, (TensorSpec("hidden_states", (g.batch, g.hidden), g.half),), (out,))


def greedy_head(g: Geometry) -> GraphSpec:
    """Argmax of the logits of one conversation."""
    logits = TensorSpec("m_logits", (1, g.vocab), FLOAT32)
    return GraphSpec(GREEDY_HEAD, GREEDY_HEAD, None, (logits,), (TensorSpec("token_id", (1, 1), INT32),))


def sample_head(g: Geometry) -> GraphSpec:
    """Repetition penalty, temperature, top-k, top-p: probabilities and ids of the candidates, likeliest first.

    `input_ids` holds the tokens seen so far, unused places filled with a repeat of the last one.
    """
    inputs = (
        TensorSpec("m_logits", (1, g.vocab), FLOAT32),
        TensorSpec("input_ids", (1, g.seq_length), INT32),
        TensorSpec("penalty", (1,), FLOAT32),
        TensorSpec("temperature", (1,), FLOAT32),
        TensorSpec("top_k", (1,), INT32),
        TensorSpec("top_p", (1,), FLOAT32),
    )
    candidates = (1, min(SAMPLE_CANDIDATES, g.vocab))
    outputs = (TensorSpec("probs", candidates, FLOAT32), TensorSpec("token_idx", candidates, INT32))
    return GraphSpec(SAMPLE_HEAD, SAMPLE_HEAD, None, inputs, outputs)


def add(g: Geometry) -> GraphSpec:
    """Deepstack features onto the hidden states of a prefill net, both flat: [T * H]."""
    flat = (g.prefill_length * g.hidden,)
    inputs = tuple(TensorSpec(name, flat, g.half) for name in ("input0", "input1"))
    return GraphSpec(ADD, ADD, None, inputs, (TensorSpec("output", flat, g.half),))


def embeddings(g: Geometry) -> tuple[GraphSpec, ...]:
    """The nets that an EMBEDDING_FILE stands for."""
    return (embedding(g), embedding_cache(g))


def decoder_graphs(
    g: Geometry, top1: bool, history: bool = False, host_embedding: bool = False
) -> tuple[GraphSpec, ...]:
    """Every net of a decoder, in the order in which a prompt passes through them.

    With `top1` lm_head ends in a token id; without, it ends in logits and greedy_head and sample_head follow. With
    `history` each layer has a block_kv, for prefill over an earlier KV cache. With `host_embedding` there are no nets
    for the embedding: the host looks it up, in an EMBEDDING_FILE.
    """
    layers = tuple(net for i in range(g.layers) for net in layer_nets(g, i, history))
    heads = (lm_head(g, top1),) if top1 else (lm_head(g, top1), greedy_head(g), sample_head(g))
    return (*(() if host_embedding else embeddings(g)), *layers, *heads)
