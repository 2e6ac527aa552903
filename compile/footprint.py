"""What a bmodel is going to take: bytes of its file, and of each device's memory while one conversation goes on.

The device's memory, as the library lays it out with scratch that nets share (bmrt's SHARE_MEM, as on boards): weights
once, commands, the scratch of the net that needs most, inputs and outputs of the nets that have memory of their own
(io_alone; a KV cache is among block_cache's). To these our runtime adds a KV cache for each conversation, and buffers.
Constants are fitted to what tpu-mlir 1.30.2 made; tests/compile/test_forecast.py holds the sums within 15 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from compile import estimate, quantization
from contract import graphs
from contract.graphs import FLOAT32, INT32, GraphSpec, TensorSpec

if TYPE_CHECKING:
    from compile.plan import Options
    from exporters.spec import DecoderSpec
    from recipes.recipe import Recipe

_PAGE = 4096  # what the compiler rounds each tensor to
_ALONE = (graphs.BLOCK_CACHE, graphs.GREEDY_HEAD, graphs.SAMPLE_HEAD)
_PASSED = ("history_k", "history_v", "k_cache", "v_cache")  # of which a device has its share of the heads
_COMMANDS, _COMMANDS_PER_POSITION = 25_000, 165  # bytes of both nets of a layer, on bm1684x
# Values of the half type that a prefill net keeps per position beside its inputs and outputs: q, k and v before and
# after rope; of a quantised MLP gate, up and their product; of one in 16 bits gate, up and the hidden state, or none
# where the chip's own memory holds all of its weights.
_ATTENTION, _QUANTISED_MLP, _MLP = 2, 3, 2
_LOCAL = 2**24
_VIT = 3.27  # the same of a tower, in widths of its MLP


@dataclass(frozen=True)
class Footprint:
    """Bytes: of the bmodel's file, and, of one device's memory, of each of its parts. `cached`: KV, the bmodel's own
    and one conversation's."""

    file: int
    weights: int
    commands: int
    scratch: int
    cached: int
    buffers: int

    @property
    def device(self) -> int:
        return self.weights + self.commands + self.scratch + self.cached + self.buffers

    @property
    def loaded(self) -> int:
        """Of `device`, what loading the bmodel takes, before anybody talks."""
        return self.device - self.buffers - self.cached // 2


def footprint(
    recipe: Recipe, spec: DecoderSpec, options: Options, nets: tuple[GraphSpec, ...], grid: int = 0
) -> Footprint:
    """Of a build of these `nets`. `grid`: as for compile.plan.make_plan."""

    def word(kind: str) -> tuple[str, int]:
        said = quantization.word(recipe, spec, options, kind, grid)
        return said, quantization.group_size(spec, options, kind, said)

    devices, table = options.devices, spec.vocab * spec.hidden
    layers = estimate.layer_bytes(spec, word(graphs.BLOCK), word(graphs.BLOCK_CACHE), options.seq_length, devices)
    embedding = 0 if options.host_embedding else 2 * table
    tower = estimate.stored(spec.vision.parameters, *word(graphs.VIT)) if spec.vision else 0
    weights = embedding + estimate.stored(table, *word(graphs.LM_HEAD)) + tower + layers
    commands = spec.layers * (_COMMANDS + _COMMANDS_PER_POSITION * options.seq_length)
    cached = sum(_size(t, devices) for net in nets if net.kind == graphs.BLOCK_CACHE for t in net.inputs[3:])
    alone = sum(_tensors(net, devices) for net in nets if net.kind in _ALONE) - cached
    scratch = max(_scratch(net, spec, word(net.kind)[0], devices) for net in nets if net.kind not in _ALONE)
    return Footprint(
        estimate.KERNEL + devices * (weights - tower + commands) + tower,  # which the first device alone holds
        weights,
        commands,
        scratch,
        2 * cached,
        alone + _buffers(nets, spec),
    )


def _size(tensor: TensorSpec, devices: int) -> int:
    share = devices if tensor.name in _PASSED else 1
    width = 4 if tensor.dtype in (FLOAT32, INT32) else 2
    return -(-prod(tensor.shape) * width // share // _PAGE) * _PAGE


def _tensors(net: GraphSpec, devices: int) -> int:
    return sum(_size(tensor, devices) for tensor in (*net.inputs, *net.outputs))


def _scratch(net: GraphSpec, spec: DecoderSpec, word: str, devices: int) -> int:
    """Of a net whose inputs and outputs lie in it."""
    passed = _tensors(net, devices)
    if net.kind in (graphs.BLOCK, graphs.BLOCK_KV):
        length = net.inputs[0].shape[1]
        rows = spec.heads * (spec.head_dim + spec.plain_dim) + spec.kv_heads * (spec.head_dim + spec.v_head_dim)
        mlp = _QUANTISED_MLP * spec.intermediate if word.startswith("W") else _plain_mlp(spec, devices)
        return passed + 2 * length * max(_ATTENTION * rows, mlp) // devices
    if net.kind == graphs.VIT and spec.vision:
        masks = [t for t in net.inputs if t.name.endswith("mask")]
        patches = net.inputs[0].shape[0] if masks else spec.vision.rows
        return passed + sum(_size(t, 1) // 2 for t in masks) + int(2 * patches * _VIT * spec.vision.intermediate)
    return passed


def _plain_mlp(spec: DecoderSpec, devices: int) -> int:
    """Values per position that a prefill net keeps of an MLP in 16 bits."""
    own = 2 * 3 * spec.hidden * spec.intermediate // devices
    return _MLP * spec.intermediate + spec.hidden if own > _LOCAL else 0


def _buffers(nets: tuple[GraphSpec, ...], spec: DecoderSpec) -> int:
    """What our runtime allocates once (runtime.decoder): ids, positions, a mask, hidden states, what the head gives."""
    prompt, step = (next(net for net in nets if net.kind == kind) for kind in (graphs.BLOCK, graphs.BLOCK_CACHE))
    over = [net for net in nets if net.kind == graphs.BLOCK_KV]
    masks = [net.inputs[2] for net in (prompt, step, *over[:1])]
    head = next(net for net in nets if net.kind == graphs.LM_HEAD).outputs[0]
    hidden = 2 * _size(prompt.inputs[0], 1) + _size(step.inputs[0], 1)
    return hidden + max(_size(mask, 1) for mask in masks) + 2 * _size(prompt.inputs[1], 1) + _size(head, 1)
