"""Turns a llama2.c checkpoint into a Hugging Face Llama checkpoint with its tokenizer.

The file (llama2.c's first format, version 0): seven int32, then float32 tensors, then, where a packager appended
it, the tokenizer table. It reads no later llama2.c format (those start with the magic "ak42").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import UserError

Floats = npt.NDArray[np.float32]
Pieces = list[tuple[str, float]]

HEADER_BYTES = 7 * 4
NORM_EPS = 1e-5  # both constants are compiled into llama2.c
ROPE_THETA = 10000.0
UNKNOWN, BOS, EOS = "<unk>", "<s>", "</s>"
FIRST_BYTE = 3  # ids 0..2 are the specials, the next 256 the bytes
SPACE = "▁"


@dataclass(frozen=True)
class Header:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    positions: int
    tied: bool

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def tensors(self) -> list[tuple[str, tuple[int, ...]]]:
        """Name and shape of each tensor, in the file's order; the last one only where the output is untied."""
        n, h, i, kv = self.layers, self.hidden, self.intermediate, self.kv_heads * self.head_dim
        rope = (self.positions, self.head_dim // 2)
        head = [] if self.tied else [("lm_head", (self.vocab, h))]
        return [
            ("embed_tokens", (self.vocab, h)),
            ("input_layernorm", (n, h)),
            ("self_attn.q_proj", (n, h, h)),
            ("self_attn.k_proj", (n, kv, h)),
            ("self_attn.v_proj", (n, kv, h)),
            ("self_attn.o_proj", (n, h, h)),
            ("post_attention_layernorm", (n, h)),
            ("mlp.gate_proj", (n, i, h)),
            ("mlp.down_proj", (n, h, i)),
            ("mlp.up_proj", (n, i, h)),
            ("norm", (h,)),
            ("rope_cos", rope),
            ("rope_sin", rope),
            *head,
        ]


def convert(file: Path, out: Path, tokenizer: Path | None = None) -> None:
    """Writes config.json, model.safetensors (float32), tokenizer and generation config into the folder `out`.

    `tokenizer` is a SentencePiece model, needed where the file has no tokenizer table behind its weights.
    UserError on a file that is not llama2.c's, is truncated, or has a tokenizer of another size.
    """
    header = read_header(file)
    tensors, end = read_tensors(file, header)
    pieces = read_sentencepiece(tokenizer) if tokenizer else read_pieces(file, end, header.vocab)
    if len(pieces) != header.vocab:
        raise UserError(f"the tokenizer has {len(pieces)} pieces, the model {header.vocab}", str(tokenizer or file))
    out.mkdir(parents=True, exist_ok=True)
    _write_weights(header, tensors, out)
    _write_json(out / "config.json", _config(header))
    # llama2.c trains on stories that are told apart by BOS alone, so BOS also ends one.
    _write_json(out / "generation_config.json", {"bos_token_id": 1, "eos_token_id": [1, 2], "do_sample": False})
    _write_tokenizer(pieces, header.positions, out)


def read_header(file: Path) -> Header:
    with file.open("rb") as stream:
        raw = stream.read(HEADER_BYTES)
    if len(raw) < HEADER_BYTES:
        raise UserError("too short for a llama2.c checkpoint", str(file), "fetch it again")
    hidden, intermediate, layers, heads, kv_heads, vocab, positions = np.frombuffer(raw, "<i4").tolist()
    # A negative vocabulary size is the format's mark of an output matrix of its own.
    header = Header(hidden, intermediate, layers, heads, kv_heads, abs(vocab), positions, tied=vocab > 0)
    sizes = (hidden, intermediate, layers, heads, kv_heads, vocab and header.vocab, positions)
    if min(sizes) < 1 or max(sizes) > 1 << 20 or hidden % heads or heads % kv_heads or header.head_dim % 2:
        raise UserError(f"not a llama2.c checkpoint (its header reads {sizes})", str(file), "name another file")
    return header


def read_tensors(file: Path, header: Header) -> tuple[dict[str, Floats], int]:
    """The tensors by name, mapped from the file, and the byte at which they end."""
    wanted = header.tensors()
    end = HEADER_BYTES + 4 * sum(int(np.prod(shape, dtype=np.int64)) for _, shape in wanted)
    if file.stat().st_size < end:
        raise UserError(f"truncated: {file.stat().st_size} of {end} bytes", str(file), "fetch it again")
    tensors: dict[str, Floats] = {}
    offset = HEADER_BYTES
    for name, shape in wanted:
        tensors[name] = np.memmap(file, np.dtype("<f4"), "r", offset, shape)
        offset += tensors[name].nbytes
    return tensors, end


def half_split(weight: Floats, heads: int) -> Floats:
    """Rows of a query or key projection, [heads*D, hidden], from llama2.c's rotary order to Hugging Face's.

    llama2.c rotates the neighbours (2i, 2i+1) of a head; Hugging Face rotates i with i + D/2.
    """
    rows, hidden = weight.shape
    paired = weight.reshape(heads, rows // heads // 2, 2, hidden)
    return paired.transpose(0, 2, 1, 3).reshape(rows, hidden)


def _write_weights(header: Header, tensors: dict[str, Floats], out: Path) -> None:
    from safetensors.numpy import save_file

    rotated = {"self_attn.q_proj": header.heads, "self_attn.k_proj": header.kv_heads}
    weights = {f"model.{name}.weight": np.array(tensors[name]) for name in ("embed_tokens", "norm")}
    if not header.tied:
        weights["lm_head.weight"] = np.array(tensors["lm_head"])
    for name, stack in tensors.items():
        if not name.startswith(("input_", "self_attn.", "post_", "mlp.")):
            continue
        for layer in range(header.layers):
            part = half_split(stack[layer], rotated[name]) if name in rotated else stack[layer]
            weights[f"model.layers.{layer}.{name}.weight"] = np.array(part, order="C")
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def _config(header: Header) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": header.hidden,
        "intermediate_size": header.intermediate,
        "num_hidden_layers": header.layers,
        "num_attention_heads": header.heads,
        "num_key_value_heads": header.kv_heads,
        "head_dim": header.head_dim,
        "hidden_act": "silu",
        "vocab_size": header.vocab,
        "max_position_embeddings": header.positions,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_THETA,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": header.tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }


def read_pieces(file: Path, offset: int, vocab: int) -> Pieces:
    """The tokenizer table: int32 longest piece, then per token float32 score, int32 length, UTF-8 bytes."""
    with file.open("rb") as stream:
        stream.seek(offset)
        raw = stream.read()
    if not raw:
        raise UserError("no tokenizer table behind the weights", str(file), "name llama2.c's file with one")
    pieces: Pieces = []
    at = 4
    while len(pieces) < vocab:
        score, length = np.frombuffer(raw[at : at + 4], "<f4"), np.frombuffer(raw[at + 4 : at + 8], "<i4")
        if not len(length) or length[0] < 0 or at + 8 + int(length[0]) > len(raw):
            raise UserError(f"the tokenizer table ends at token {len(pieces)} of {vocab}", str(file), "fetch it again")
        at += 8 + int(length[0])
        pieces.append((raw[at - int(length[0]) : at].decode("utf-8"), float(score[0])))
    return _normal(pieces)


def read_sentencepiece(model: Path) -> Pieces:
    """The same table out of a SentencePiece model file."""
    from sentencepiece import SentencePieceProcessor

    reader = SentencePieceProcessor(model_file=str(model))
    return _normal([(reader.id_to_piece(i), reader.get_score(i)) for i in range(reader.get_piece_size())])


def _normal(pieces: Pieces) -> Pieces:
    """SentencePiece's own spelling. llama2.c writes specials with line breaks, bytes as characters, and blanks."""
    head = [UNKNOWN, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256))]
    return [(head[i] if i < len(head) else piece.replace(" ", SPACE), score) for i, (piece, score) in enumerate(pieces)]


def _merges(pieces: Pieces) -> list[tuple[str, str]]:
    """Pairs to merge, best first. SentencePiece scores the merged piece; a Hugging Face BPE ranks the pair."""
    plain = {piece: (i, score) for i, (piece, score) in enumerate(pieces) if i >= FIRST_BYTE + 256}
    ranked = []
    for piece, (_, score) in plain.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in plain and right in plain:
                ranked.append((-score, plain[left][0], plain[right][0], left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]


def _write_tokenizer(pieces: Pieces, positions: int, out: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    vocab = {piece: i for i, (piece, _) in enumerate(pieces)}
    bpe = models.BPE(vocab=vocab, merges=_merges(pieces), unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    # A blank is put before every text, one that starts with a blank included (a Metaspace step would not do that).
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, 1)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (UNKNOWN, BOS, EOS)])
    tokenizer.save(str(out / "tokenizer.json"))
    # The general class: transformers' own LlamaTokenizer would put its Metaspace step in place of ours.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": positions,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(out / "tokenizer_config.json", settings)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
