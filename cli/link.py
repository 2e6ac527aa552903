"""What must fit before nets are combined: each net's bmodel and the contract, tokenizer and vocabulary.

The compiler does not look: it combines float16 embeddings with bfloat16 blocks and reports success.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.errors import UserError
from contract.graphs import GraphSpec, TensorSpec

if TYPE_CHECKING:
    from runtime.cascade import Cascade

BUILD_AGAIN = "remove its folder in work/ and build again; if it stays so, report it"


def check_nets(nets: Iterable[GraphSpec], work: Path, chip: str, devices: int) -> None:
    """Each bmodel in `work` that is to be combined is for `chip`, holds the nets that it should and no other, and these
    take and give what the contract says.

    UserError, in words of the first tensor that does not fit. With it, all nets pass hidden states on in one type. Nets
    that are split over `devices` must fit as the whole that their parts make.
    """
    from compile.names import bmodel_file
    from runtime import bmodel

    files: dict[Path, list[GraphSpec]] = {}
    for net in nets:
        files.setdefault(work / bmodel_file(net), []).append(net)
    for path, wanted in files.items():
        bmodel.require_chip(path, chip)
        found = bmodel.signatures(path)
        names = {net.name for net in wanted}
        if odd := sorted({part.name for part in found} - names):
            raise UserError(f"holds {odd[0]} in place of {', '.join(sorted(names))}", str(path), BUILD_AGAIN)
        _check_file(path, wanted, found, devices)


def _check_file(path: Path, nets: Sequence[GraphSpec], found: Sequence[GraphSpec], devices: int) -> None:
    from runtime import cascade

    for net in nets:
        parts = [part for part in found if part.name == net.name]
        if not parts:
            raise UserError(f"does not hold {net.name}", str(path), BUILD_AGAIN)
        for part in parts:
            _check_types(f"{path}: net {net.name}", (*net.inputs, *net.outputs), (*part.inputs, *part.outputs))
        split = cascade.cascades(path).get(net.name) if devices > 1 else None
        if split:
            _check_split(path, net, split, devices)
        else:
            _check_places(f"{path}: input", net.inputs, parts[0].inputs, named=True)
            _check_places(f"{path}: output", net.outputs, parts[0].outputs, named=False)


def _check_split(path: Path, net: GraphSpec, split: Cascade, devices: int) -> None:
    """Of a form that it does not know the compiler splits a part, and leaves the rest open between the parts."""
    try:
        whole = split.net(net.name, dynamic=False).spec
        _check_places("input", net.inputs, whole.inputs, named=False)
        _check_places("output", net.outputs, whole.outputs, named=False)
    except UserError as error:
        what = f"the compiler does not split {net.name} as a whole over {devices} devices: {error.what}"
        raise UserError(what, str(path), "use --devices 1") from error


def _check_types(where: str, wanted: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> None:
    for have in found:
        for want in wanted:
            if _is(have, want) and have.dtype != want.dtype:
                raise UserError(f"{want.name} is {have.dtype}, where the model needs {want.dtype}", where, BUILD_AGAIN)


def _check_places(where: str, wanted: Sequence[TensorSpec], found: Sequence[TensorSpec], named: bool) -> None:
    """One by one. Unless they are `named`, a name that is none of the contract's is the compiler's own for it."""
    if len(wanted) != len(found):
        names = ", ".join(t.name for t in found)
        raise UserError(f"{len(found)} tensors ({names}), where the model needs {len(wanted)}", where, BUILD_AGAIN)
    for want, have in zip(wanted, found, strict=True):
        if not _is(have, want) and (named or any(_is(have, other) for other in wanted)):
            raise UserError(f"{have.name} is in the place of {want.name}", where, BUILD_AGAIN)
        if (have.dtype, have.shape) != (want.dtype, want.shape):
            what = (
                f"{want.name} is {have.dtype} {list(have.shape)}, where the model needs {want.dtype} {list(want.shape)}"
            )
            raise UserError(what, where, BUILD_AGAIN)


def _is(have: TensorSpec, want: TensorSpec) -> bool:
    """The compiler may append the operation that makes a tensor, and the device that has it."""
    return have.name == want.name or have.name.startswith(f"{want.name}_")


def check_table(path: Path, vocab: int, hidden: int) -> None:
    """UserError where the embedding's file has not `vocab` rows of `hidden` values in 16 bits."""
    wanted, size = 2 * vocab * hidden, path.stat().st_size
    if size != wanted:
        what = f"{size} bytes, where {vocab} rows of {hidden} values take {wanted}"
        raise UserError(what, str(path), BUILD_AGAIN)


def check_all(*checks: Callable[[], None]) -> None:
    for check in checks:
        check()


def check_tokenizer(folder: Path, vocab: int) -> None:
    """Every id that the tokenizer in `folder` gives for text is one of the model's `vocab`: else UserError.

    Special tokens that were added may lie beyond it: text does not give them (Gemma 3's place of an image is one).
    Looks at a tokenizer.json, or a vocab.json; a folder without either passes.
    """
    ids = _ids(folder)
    token = max(ids, key=lambda token: ids[token], default=None)
    if token is not None and ids[token] >= vocab:
        what = f"the tokenizer gives id {ids[token]} for {token!r}, and the model knows {vocab}"
        raise UserError(what, str(folder), "take tokenizer and weights of one checkpoint")


def _ids(folder: Path) -> dict[str, int]:
    """By token, but for special ones. Empty where no file says them."""
    fast = _read(folder / "tokenizer.json")
    model = fast.get("model", {}).get("vocab") or _read(folder / "vocab.json")
    ids = {entry[0]: i for i, entry in enumerate(model)} if isinstance(model, list) else dict(model)
    for token in fast.get("added_tokens", ()):
        if token.get("special"):
            ids.pop(token["content"], None)
        else:
            ids[token["content"]] = token["id"]
    return {token: number for token, number in ids.items() if isinstance(number, int)}


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", str(path), "fetch the checkpoint again") from error
    return data if isinstance(data, dict) else {}
