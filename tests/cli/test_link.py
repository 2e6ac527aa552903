"""What does not fit is told before nets are combined: in one line, with the net and the tensor."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import flatbuffers
import pytest

from cli import link
from compile.names import bmodel_file
from contract import graphs
from contract.errors import UserError
from contract.graphs import GraphSpec, TensorSpec
from runtime import bmodel
from runtime.bmrt import CODES
from tests.runtime import test_bmodel as files

NETS = graphs.decoder_graphs(graphs.Geometry(2, 8, 2, 4, 4, 100, 16), top1=True)
Change = Callable[[GraphSpec], GraphSpec]


def write(nets: Iterable[GraphSpec], path: Path, chip: str = "BM1684X") -> None:
    """A bmodel of those nets as the compiler leaves one: outputs are named after the operation that makes them."""
    b, made = flatbuffers.Builder(0), []
    for net in nets:
        sides = [
            [files.tensor_of(b, t.name + end, list(t.shape), CODES[t.dtype], 4) for t in side]
            for side, end in ((net.inputs, ""), (net.outputs, "_Add"))
        ]
        stage = files.table(b, {i: ("ref", files.vector(b, side)) for i, side in enumerate(sides)})
        fields = {0: ("ref", b.CreateString(net.name)), 3: ("ref", files.vector(b, [stage]))}
        made.append(files.table(b, fields))
    words = [b.CreateString(word) for word in ("B", "2.2", "today", chip)]
    vector = files.vector(b, made)
    b.Finish(files.table(b, {**{i: ("ref", word) for i, word in enumerate(words)}, 4: ("ref", vector)}))
    described = bytes(b.Output())
    path.parent.mkdir(exist_ok=True)
    head = struct.pack("<IIIQ44x", bmodel.MAGIC, 64, len(described), 16)
    path.write_bytes(head + described + bytes(16))


def write_all(work: Path, **odd: GraphSpec | None) -> None:
    """The bmodels that are combined, with other nets in the places of those named, or (None) without them."""
    found: dict[str, list[GraphSpec]] = {}
    for net in NETS:
        made = odd.get(net.name, net)
        found.setdefault(bmodel_file(net), []).extend([made] if made else [])
    for file, nets in found.items():
        write(nets, work / file)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_all(tmp_path)
    return tmp_path


def named(name: str) -> GraphSpec:
    (net,) = (net for net in NETS if net.name == name)
    return net


def test_nets_of_the_contract_fit(work: Path) -> None:
    link.check_nets(NETS, work, "bm1684x", 1)
    # As where an output is another one, reshaped.
    write_all(work, block_0=change("k_cache", name="/Add_1_output_0")(named("block_0")))
    link.check_nets(NETS, work, "bm1684x", 1)


def test_a_split_must_make_the_whole(tmp_path: Path) -> None:
    """A net whose attention is split and whose MLP is not, as the compiler leaves one that it does not know."""
    (net,) = (net for net in NETS if net.name == "block_0")
    share = [replace(t, shape=(*t.shape[:2], 1, 4)) for t in net.outputs[1:]]

    def write_parts(sums: int, last: int) -> None:
        """`sums`, `last`: what the file says of the sum over the devices, and of the MLP's input (4, 3: the net's)."""
        b = flatbuffers.Builder(0)

        def part(step: int, device: int, ins: list[int], outs: list[int]) -> int:
            fields = {0: ("Uint32", device), 1: ("Uint32", step), 2: ("ref", b.CreateString("block_0"))}
            cascade = files.table(b, {slot: value for slot, value in fields.items() if value[1]})
            return files.net(b, f"block_0_{step}_{device}", ins, outs, (0, 16), cascade)

        def tensor(t: TensorSpec, hidden: int, name: str = "") -> int:
            place = [*net.inputs, *net.outputs, *share].index(t)
            return files.tensor_of(b, name or t.name, list(t.shape), CODES[t.dtype], 4, hidden, place)

        first, both = net.outputs[0], (0, 1)
        ins = [[tensor(t, 1) for t in net.inputs] for _ in both]
        outs = [[tensor(first, sums, f"s{d}"), *(tensor(t, 4) for t in share)] for d in both]
        made = [part(0, d, ins[d], outs[d]) for d in both]
        made += [part(1, d, [tensor(first, last, f"s{d}")], [tensor(first, 4)]) for d in both[: 1 if last else 2]]
        path = tmp_path / bmodel_file(net)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(files.file_of(b, made))

    write_parts(sums=0, last=0)
    link.check_nets([net], tmp_path, "bm1684x", 2)
    write_parts(sums=4, last=3)
    with pytest.raises(UserError, match=r"does not split block_0 as a whole over 2 devices: .*; use --devices 1"):
        link.check_nets([net], tmp_path, "bm1684x", 2)


def change(tensor: str, **changes: object) -> Change:
    def to(net: GraphSpec) -> GraphSpec:
        def one(t: TensorSpec) -> TensorSpec:
            return replace(t, **changes) if t.name == tensor else t  # type: ignore[arg-type]

        return replace(net, inputs=tuple(map(one, net.inputs)), outputs=tuple(map(one, net.outputs)))

    return to


@pytest.mark.parametrize(
    ("name", "odd", "message"),
    [
        ("embedding", change("embedding", dtype="float16"), "embedding is float16, where the model needs bfloat16"),
        (
            "lm_head",
            change("hidden_states", dtype="float32"),
            "hidden_states is float32, where the model needs",
        ),
        (
            "block_1",
            change("input_states", shape=(1, 16, 9)),
            r"input_states is bfloat16 \[1, 16, 9\], where the model needs bfloat16 \[1, 16, 8\]",
        ),
        ("block_cache_0", change("history_k", name="other"), "input: other is in the place of history_k"),
        (
            "block_0",
            lambda net: replace(net, outputs=net.outputs[:1] + net.outputs[:0:-1]),
            "v_cache_Add is in the place",
        ),
        ("block_0", lambda net: replace(net, outputs=net.outputs[:2]), "output: 2 tensors .*, where the model needs 3"),
        ("block_0", lambda net: replace(net, name="block_1"), "holds block_1 in place of block_0, block_cache_0"),
    ],
)
def test_a_net_that_does_not_fit_is_one_line(work: Path, name: str, odd: Change, message: str) -> None:
    write_all(work, **{name: odd(named(name))})
    with pytest.raises(UserError, match=message) as error:
        link.check_nets(NETS, work, "bm1684x", 1)
    assert bmodel_file(named(name)) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_net_that_is_missing(work: Path) -> None:
    write_all(work, block_cache_1=None)
    with pytest.raises(UserError, match=r"layer_1\.bmodel: does not hold block_cache_1"):
        link.check_nets(NETS, work, "bm1684x", 1)


def test_another_chip_and_a_net_cut_short(work: Path) -> None:
    with pytest.raises(UserError, match="built for bm1684x, not bm1688"):
        link.check_nets(NETS, work, "bm1688", 1)
    path = work / bmodel_file(named("block_0"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="truncated"):
        link.check_nets(NETS, work, "bm1684x", 1)


def tokenizer(folder: Path, vocab: object, *added: tuple[str, int, bool]) -> Path:
    tokens = [{"content": word, "id": number, "special": special} for word, number, special in added]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": tokens}))
    return folder


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    link.check_tokenizer(tmp_path, 3)  # none at all
    words = {"a": 0, "b": 1, "c": 2}
    link.check_tokenizer(tokenizer(tmp_path, words), 3)
    with pytest.raises(UserError, match="the tokenizer gives id 2 for 'c', and the model knows 2"):
        link.check_tokenizer(tmp_path, 2)
    with pytest.raises(UserError, match="gives id 2 for 'c'"):  # as SentencePiece's are: the place is the id
        link.check_tokenizer(tokenizer(tmp_path, [["a", 0.0], ["b", -1.0], ["c", -2.0]]), 2)
    link.check_tokenizer(tokenizer(tmp_path, words, ("<image>", 3, True)), 3)
    with pytest.raises(UserError, match="gives id 3 for '<tool>'"):
        link.check_tokenizer(tokenizer(tmp_path, words, ("<tool>", 3, False)), 3)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read"):
        link.check_tokenizer(tmp_path, 3)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 7}))
    with pytest.raises(UserError, match="gives id 7 for 'a'"):
        link.check_tokenizer(tmp_path, 7)
