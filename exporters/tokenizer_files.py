"""Reads the vocabulary files of slow tokenizers, and gives each as a fast tokenizer of the same ids.

Two formats: tiktoken's (a line per token: base64, rank) and SentencePiece's BPE. No special token of a chat is known
here; exporters.tokenizer adds those. Nothing of a checkpoint is run.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.errors import UserError
from exporters.tokenizer_kinds import Kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "▁"  # how SentencePiece spells a blank


def read(file: Path, kind: Kind, names: Mapping[int, str]) -> Tokenizer:
    """The tokenizer of `file`. `names`: what tokens are called whose id lies inside the vocabulary.

    UserError where the file is not of the kind's format, or of a variant that a fast tokenizer cannot express.
    """
    readers = {"tiktoken": _tiktoken, "sentencepiece": _sentencepiece}
    return readers[kind.reader](file, kind, names)


def _tiktoken(file: Path, kind: Kind, names: Mapping[int, str]) -> Tokenizer:
    """tiktoken: byte-level BPE in which any two neighbours may merge whose bytes together are a token."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    letters = _byte_letters()
    try:
        lines = [line.split() for line in file.read_bytes().splitlines() if line]
        ranks = {"".join(letters[b] for b in base64.b64decode(token, validate=True)): int(i) for token, i in lines}
    except (ValueError, binascii.Error) as error:
        raise UserError("not a tiktoken vocabulary", str(file), "fetch the checkpoint's file again") from error
    merges = _merges({token: (rank,) for token, rank in ranks.items()})
    vocab = _renamed(ranks, names)
    # A word that is a token is taken as it is, as tiktoken does, merges or not.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, fuse_unk=False, ignore_merges=True))
    if kind.normal_form:
        tokenizer.normalizer = getattr(normalizers, kind.normal_form)()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(kind.pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary: itself where it prints, else from 256 on."""
    printing = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printing else next(others)) for byte in range(256)]


def _sentencepiece(file: Path, kind: Kind, names: Mapping[int, str]) -> Tokenizer:
    """SentencePiece BPE: the pair whose merged piece scores best goes first; user-defined pieces never merge."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

    proto = _proto(file)
    types = type(proto.pieces[0]) if proto.pieces else None
    if types is None or proto.trainer_spec.model_type != proto.trainer_spec.BPE:
        raise UserError("not a SentencePiece BPE model", str(file), "fetch the checkpoint's file again")
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    normal = {p.piece: (-p.score,) for p in proto.pieces if p.type == types.NORMAL}
    whole = [p.piece for p in proto.pieces if p.type == types.USER_DEFINED and len(p.piece) > 1]
    whole = [piece for piece in whole if ids[piece] not in names]
    # Cut out as added tokens; but the stretches between these would each get the blank that is put before a text (and
    # where a charsmap rewrites it, tokenizers panics). Then they are cut out afterwards and, being tokens, taken as
    # they are; so is, there, a stretch that is nothing but the name of a byte, "<0x0A>".
    spec = proto.normalizer_spec
    cut_late = bool(whole) and bool(spec.add_dummy_prefix or spec.precompiled_charsmap)
    bpe = models.BPE(
        vocab=_renamed(ids, names),
        merges=_merges(normal),
        unk_token=names.get(proto.trainer_spec.unk_id, proto.trainer_spec.unk_piece),
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
        ignore_merges=cut_late,
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = _normalizer(spec)
    tokenizer.decoder = _decoder(spec)
    if cut_late:
        longest_first = "|".join(map(re.escape, sorted(whole, key=len, reverse=True)))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(longest_first), behavior="isolated")
    else:
        tokenizer.add_tokens([AddedToken(piece, normalized=True, special=False) for piece in whole])
    return tokenizer


def _proto(file: Path) -> Any:
    # Both modules are made at run time: by their names a type checker finds nothing in them.
    model: Any = import_module("sentencepiece.sentencepiece_model_pb2")
    message: Any = import_module("google.protobuf.message")
    proto = model.ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
    except message.DecodeError as error:
        raise UserError("not a SentencePiece model", str(file), "fetch the checkpoint's file again") from error
    return proto


def _normalizer(spec: Any) -> Any:
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        # Before a text that starts with a blank too, which a Metaspace step would not do.
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _decoder(spec: Any) -> Any:
    from tokenizers import decoders

    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


def _merges(order: Mapping[str, tuple[float, ...]]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, best first. `order`: a piece's place, lower is better."""
    places = {piece: i for i, piece in enumerate(order)}
    ranked = [
        (*place, places[piece[:cut]], places[piece[cut:]], piece[:cut], piece[cut:])
        for piece, place in order.items()
        for cut in range(1, len(piece))
        if piece[:cut] in order and piece[cut:] in order
    ]
    return [(left, right) for *_, left, right in sorted(ranked)]  # type: ignore[misc]


def _renamed(vocab: Mapping[str, int], names: Mapping[int, str]) -> dict[str, int]:
    return {names.get(i, piece): i for piece, i in vocab.items()}
