"""Small llama2.c checkpoints and SentencePiece models, and what llama2.c itself does with them."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import numpy as np

from exporters import llama2c

# hidden, intermediate, layers, heads, kv_heads, vocab, positions
SIZES = (32, 48, 2, 4, 2, 330, 24)
TEXT = """Once upon a time there was a little girl. She saw a big red ball, and the sun was warm.
One day the girl and her dog went to the park. "Look!" she said. "It is so pretty!"
The dog ran and ran; they were happy. 小女孩喜欢红色的球。小狗喜欢跑。"""


def train_sentencepiece(path: Path) -> Path:
    """A real SentencePiece BPE with byte fallback, like Llama's, of the vocabulary size in SIZES."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=SIZES[5],
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.98,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return path


def table(model: Path) -> bytes:
    """The model's pieces as llama2.c's early exporter wrote them."""
    pieces = llama2c.read_sentencepiece(model)
    out = struct.pack("<i", max(len(p.encode()) for p, _ in pieces))
    for i, (piece, score) in enumerate(pieces):
        if 3 <= i < 259:
            piece = chr(i - 3)
        raw = {1: "\n<s>\n", 2: "\n</s>\n"}.get(i, piece.replace("▁", " ")).encode()
        out += struct.pack("<fi", score, len(raw)) + raw
    return out


def write(path: Path, tied: bool, tail: bytes) -> dict[str, np.ndarray]:
    """A llama2.c file of random weights (with `tail` behind them), and the weights."""
    rng = np.random.default_rng(0)
    header = llama2c.Header(*SIZES, tied=tied)
    tensors = {name: rng.normal(0, 0.2, shape).astype("<f4") for name, shape in header.tensors()}
    sizes = (*SIZES[:5], SIZES[5] if tied else -SIZES[5], SIZES[6])
    path.write_bytes(struct.pack("<7i", *sizes) + b"".join(t.tobytes() for t in tensors.values()) + tail)
    return tensors


def run_c(w: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """Logits of every position as llama2.c's run.c computes them: rotary pairs are neighbours (2i, 2i+1)."""
    hidden, _, layers, heads, kv_heads, _, _ = SIZES
    d, n = hidden // heads, len(tokens)

    def norm(x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight

    def rotate(x):
        angle = np.arange(n)[:, None] / 10000 ** (np.arange(0, d, 2) / d)
        turn = np.exp(1j * angle)[:, None, :]
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack((pairs.real, pairs.imag), -1).reshape(x.shape)

    x = w["embed_tokens"][tokens].astype(np.float64)
    for i in range(layers):
        h = norm(x, w["input_layernorm"][i])
        q = rotate((h @ w["self_attn.q_proj"][i].T).reshape(n, heads, d))
        k = rotate((h @ w["self_attn.k_proj"][i].T).reshape(n, kv_heads, d)).repeat(heads // kv_heads, 1)
        v = (h @ w["self_attn.v_proj"][i].T).reshape(n, kv_heads, d).repeat(heads // kv_heads, 1)
        score = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(d) + np.triu(np.full((n, n), -1e30), 1)
        weight = np.exp(score - score.max(-1, keepdims=True))
        weight /= weight.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", weight, v).reshape(n, hidden) @ w["self_attn.o_proj"][i].T
        h = norm(x, w["post_attention_layernorm"][i])
        gate = h @ w["mlp.gate_proj"][i].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["mlp.up_proj"][i].T)) @ w["mlp.down_proj"][i].T
    return norm(x, w["norm"]) @ w.get("lm_head", w["embed_tokens"]).T


def encode_c(text: str, pieces: llama2c.Pieces) -> list[int]:
    """llama2.c's encoder: a blank first, characters (or their bytes), then the best-scored merge until none is left."""
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    tokens = [1]
    for char in " " + text if text else "":
        char = char.replace(" ", "▁")
        tokens += [ids[char]] if char in ids else [3 + byte for byte in char.encode()]
    while True:
        best = (-1e10, -1, -1)
        for at in range(len(tokens) - 1):
            merged = ids.get(pieces[tokens[at]][0] + pieces[tokens[at + 1]][0], -1)
            if merged >= 0 and pieces[merged][1] > best[0]:
                best = (pieces[merged][1], merged, at)
        if best[1] < 0:
            return tokens
        tokens[best[2] : best[2] + 2] = [best[1]]


def texts(count: int) -> list[str]:
    """Real phrases and random ones: blanks in every place, digits, Chinese, emoji, control characters, accents."""
    rng = random.Random(0)
    fixed = [
        "Once upon a time",
        "",
        " ",
        "  two  blanks ",
        "\n\n\tTabs",
        "小女孩喜欢红色的球。",
        "🙂👩‍👩‍👧 ok",
        "naïve ü 1234",
        "<0x41>",
    ]
    alphabet = "abc dehilnorstuyw  ABT.,!?\"'\n0123456789小女孩球狗的中文🙂🚀éüß\u200b"
    return fixed + TEXT.splitlines() + ["".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(count)]
