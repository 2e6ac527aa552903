"""A loaded bmodel's nets in the words of the contract, whoever made it.

llm_convert leaves internal names on some outputs and gives dynamic blocks no mask; ours agree by position. Here
every tensor gets the contract's name, so that nothing else needs to know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from contract import graphs, towers
from contract.errors import UserError
from contract.graphs import Geometry, GraphSpec, TensorSpec
from contract.lora import LORA
from runtime.half import Array

_BUILDERS: dict[str, Callable[[Geometry], GraphSpec]] = {
    graphs.EMBEDDING: graphs.embedding,
    graphs.EMBEDDING_CACHE: graphs.embedding_cache,
    graphs.BLOCK: lambda g: graphs.block(g, 0),
    graphs.BLOCK_CACHE: lambda g: graphs.block_cache(g, 0),
    graphs.BLOCK_KV: lambda g: graphs.block_kv(g, 0),
    graphs.LM_HEAD: lambda g: graphs.lm_head(g, top1=g.vocab == 1),
    graphs.GREEDY_HEAD: graphs.greedy_head,
    graphs.SAMPLE_HEAD: graphs.sample_head,
    graphs.ADD: graphs.add,
}


# Nets over several positions at once.
PREFILL = (graphs.BLOCK, graphs.BLOCK_KV)
# Tensors of which each device has its share of the heads, and their axis; of others each has all.
_HEADS = 2


@dataclass(frozen=True)
class Net:
    """`spec`: contract names, file order. `dynamic`: the length may be chosen at each launch.

    `share`: the same net as each device sees it, with its own share of the KV heads. `takers`, `givers`: on how many
    devices the inputs and the outputs lie; 1 for a net that is not split.
    """

    spec: GraphSpec
    dynamic: bool
    share: GraphSpec
    takers: int = 1
    givers: int = 1


@dataclass(frozen=True)
class Sizes:
    """Positions that a prefill net (`prefill_length`) and the whole conversation (`seq_length`) may take. `history`:
    prefill may go on over an earlier KV cache, so that a prompt may be as long as the conversation. `batch`:
    conversations that a decode step takes on at once."""

    layers: int
    prefill_length: int
    seq_length: int
    history: bool = False
    batch: int = 1

    @property
    def prompt_length(self) -> int:
        """The longest prompt."""
        return self.seq_length if self.history else self.prefill_length


def contract(kind: str, top1: bool = False, past: int = 1, length: int = 1) -> GraphSpec:
    """The contract's net of `kind`, sizes 1 but for a cache of `past` positions and a prefill of `length`: for its
    names and their order."""
    return _BUILDERS[kind](Geometry(1, 1, 1, 1, 1, 1 if top1 else 2, past, input_length=length))


# Cached k and v.
CACHED = tuple(t.name for t in contract(graphs.BLOCK_CACHE).inputs[3:])
# And new ones.
_BY_HEADS = {*CACHED, *(t.name for t in contract(graphs.BLOCK_CACHE).outputs[1:])}


def describe(name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> GraphSpec:
    """The GraphSpec of net `name` with the tensors as the file has them. Unknown nets keep their name as kind."""
    layered = re.fullmatch(f"({'|'.join(graphs.LAYER_KINDS)})_(\\d+)", name)
    kind, layer = (layered[1], int(layered[2])) if layered else (name, None)
    if kind in _BUILDERS:
        known = contract(kind, top1=outputs[0].dtype == graphs.INT32)
        wanted = [t.name for t in known.inputs]
        if kind in PREFILL and len(inputs) == len(wanted) - 1:  # the mask is baked into llm_convert's dynamic blocks
            del wanted[2]
        wanted += [t.name for t in inputs if t.name.startswith(LORA)]
        inputs, outputs = _rename(inputs, wanted), _rename(outputs, [t.name for t in known.outputs])
    if kind == graphs.VIT:
        features = towers.vit(towers.VisionGeometry(1, 1, deepstack=len(outputs) - 1)).outputs
        outputs = _rename(outputs, [t.name for t in features])
    return GraphSpec(name, kind, layer, tuple(inputs), tuple(outputs))


def described(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    places: tuple[Sequence[int], Sequence[int]],
    dynamic: bool,
) -> Net:
    """The Net of tensors that lie at `places`, the device of each input and of each output, in ascending order.

    UserError where a device has other tensors than the first.
    """
    groups = [
        [[t for t, place in zip(tensors, where, strict=True) if place == device] for device in range(max(where) + 1)]
        for tensors, where in zip((inputs, outputs), places, strict=True)
    ]
    for group in groups:
        if odd := next((i for i, own in enumerate(group) if _forms(own) != _forms(group[0])), 0):
            what = f"net {name} has other tensors on device {odd} than on device 0"
            raise UserError(what, remedy="build for one device")
    share = describe(name, groups[0][0], groups[1][0])
    takers, givers = (len(group) for group in groups)
    spec = replace(share, inputs=_whole(share.inputs, takers), outputs=_whole(share.outputs, givers))
    return Net(spec, dynamic, share, takers, givers)


def _forms(tensors: Sequence[TensorSpec]) -> list[tuple[tuple[int, ...], str]]:
    return [(t.shape, t.dtype) for t in tensors]


def _whole(shares: Sequence[TensorSpec], devices: int) -> tuple[TensorSpec, ...]:
    return tuple(
        replace(t, shape=(*t.shape[:_HEADS], t.shape[_HEADS] * devices, *t.shape[_HEADS + 1 :]))
        if t.name in _BY_HEADS
        else t
        for t in shares
    )


def parts(tensor: TensorSpec, values: Array, devices: int) -> list[Array]:
    """What of the whole `tensor` goes to each device: its heads, or all."""
    if tensor.name not in _BY_HEADS:
        return [values] * devices
    return [np.ascontiguousarray(part) for part in np.split(values, devices, axis=_HEADS)]


def joined(tensor: TensorSpec, shares: Sequence[Array]) -> Array:
    """The whole `tensor` of what each device has of it."""
    return np.concatenate(shares, axis=_HEADS) if tensor.name in _BY_HEADS else shares[0]


def _rename(tensors: Sequence[TensorSpec], wanted: Sequence[str]) -> Sequence[TensorSpec]:
    """By name where the names are the contract's own, in whatever order; else by position, where the number fits."""
    if len(tensors) != len(wanted) or {t.name for t in tensors} == set(wanted):
        return tensors
    return [replace(t, name=name) for t, name in zip(tensors, wanted, strict=True)]


def _names(spec: GraphSpec) -> set[str]:
    known = contract(spec.kind, top1=spec.outputs[0].dtype == graphs.INT32)
    return {t.name for t in (*known.inputs, *known.outputs)}


def at_length(spec: GraphSpec, length: int, past: int = 0) -> dict[str, tuple[int, ...]]:
    """Input shapes of a net over `length` positions, behind `past` in the cache, instead of the built numbers."""
    one, cached, new = (contract(spec.kind, past=p, length=n).inputs for p, n in ((1, 1), (2, 1), (1, 2)))
    grows = {
        a.name: [(c - n, t - n) for n, c, t in zip(a.shape, b.shape, d.shape, strict=True)]
        for a, b, d in zip(one, cached, new, strict=True)
    }
    return {
        t.name: tuple(
            by_past * past + by_length * length if by_past or by_length else n
            for n, (by_past, by_length) in zip(t.shape, grows[t.name], strict=True)
        )
        for t in spec.inputs
    }


def sizes(nets: Mapping[str, GraphSpec]) -> Sizes:
    """UserError where these nets are no decoder that can talk."""
    layers = sum(spec.kind == graphs.BLOCK for spec in nets.values())
    pairs = [name(i) for i in range(max(layers, 1)) for name in (graphs.block_name, graphs.block_cache_name)]
    history = any(spec.kind == graphs.BLOCK_KV for spec in nets.values())
    later = [graphs.block_kv_name(i) for i in range(layers) if history]
    needed = [graphs.EMBEDDING, graphs.EMBEDDING_CACHE, *pairs, *later, graphs.LM_HEAD]
    if missing := [name for name in needed if name not in nets]:
        remedy = f"name a decoder's bmodel; one without embedding needs its {graphs.EMBEDDING_FILE} beside it"
        raise UserError(f"this bmodel cannot talk: it has no net {missing[0]}", remedy=remedy)
    for name in needed:
        tensors = (*(t for t in nets[name].inputs if not t.name.startswith(LORA)), *nets[name].outputs)
        if odd := sorted({t.name for t in tensors} - _names(nets[name])):
            # As in nets of which the compiler split a part only.
            raise UserError(f"net {name} has a tensor {odd[0]!r} that no decoder has", remedy="build for one device")
    hidden = [nets[n].outputs[0] for n in needed[:-1]] + [nets[n].inputs[0] for n in needed[2:]]
    if len(types := sorted({t.dtype for t in hidden})) > 1:  # llm_convert -q bf16 does this to a float16 checkpoint
        raise UserError(f"its nets disagree on the type of hidden states ({', '.join(types)})", remedy="build it again")
    prompt, cache = nets[graphs.EMBEDDING].inputs[0].shape, nets[graphs.block_cache_name(0)].inputs[3].shape
    rows = [nets[n].inputs[0].shape[0] for n in (graphs.EMBEDDING_CACHE, graphs.block_cache_name(0), graphs.LM_HEAD)]
    if prompt[0] != 1 or {*rows} != {cache[0]} or len(nets[graphs.block_cache_name(0)].outputs) < 3:
        # llm_convert's, which write into their cache themselves.
        what = f"built for {max(prompt[0], cache[0])} conversations at once, in a form that is not ours"
        raise UserError(what, remedy="build it again, with BATCH")
    return Sizes(layers, prompt[1], cache[1], history, cache[0])
