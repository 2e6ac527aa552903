"""One layer over a prompt and over real decode steps, by torch or by ONNX Runtime, with the same bookkeeping.

Because the tokens are known beforehand, a layer can do all its steps before the next layer starts, so that only one
layer is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from contract import graphs
from contract.graphs import MASKED, Geometry

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[dict[str, Array]], dict[str, Array]]
Unmask = Callable[[Array, int], None]  # of a mask [T, T], in place, and the positions before it
STATES = "output_states"


@dataclass
class States:
    """Hidden states on their way through the layers: `chunks` of the prompt, [1, T, H] each, and `steps`, [1, 1, H]."""

    chunks: list[Array]
    steps: list[Array]


@dataclass
class Call:
    """One run of a net, kept for comparison: inputs and outputs by tensor name."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


@dataclass
class LayerRun:
    """All runs of one layer: each chunk of the prompt and each decode step, and the states it hands on. A step of
    several conversations: `seated`."""

    chunks: list[Call] = field(default_factory=list)
    steps: list[Call] = field(default_factory=list)

    def states(self) -> States:
        steps = [call.outputs[STATES] for call in self.steps]
        seats = [number % len(step) for number, step in enumerate(steps)]
        return States(
            [call.outputs[STATES] for call in self.chunks],
            [step[seat : seat + 1] for seat, step in zip(seats, steps, strict=True)],
        )


def chunks(count: int, geometry: Geometry, history: bool) -> list[int]:
    """Lengths of the chunks that a prompt of `count` positions is prefilled in. With a history there are two at least,
    so that both nets have something to do."""
    if not history:
        return [count]
    most = geometry.prefill_length
    first = min(most, -(-count // 2))
    return [first, *(min(most, count - done) for done in range(first, count, most))]


def prefill_mask(length: int) -> Array:
    """[1, 1, T, T]: position i sees 0..i. Padding lies after every real position, so this hides it too."""
    return np.triu(np.full((1, 1, length, length), MASKED, np.float32), k=1)


def history_mask(length: int, seq_length: int, past: int) -> Array:
    """[1, 1, T, S + T]: the first `past` of the cache, then each position what goes before it."""
    cached = np.full((1, 1, length, seq_length), MASKED, np.float32)
    cached[..., :past] = 0
    return np.concatenate([cached, prefill_mask(length)], axis=-1)


def seated(step: int, seats: int) -> list[int]:
    """Which decode step sits in each of `seats` when this one is run: it in seat step % seats, beside the last ones
    before it, which must change nothing; where there were none, itself."""
    before = [step - (step - seat) % seats for seat in range(seats)]
    return [earlier if earlier >= 0 else step for earlier in before]


def padded(ids: list[int], length: int) -> Array:
    """[1, T] int32, zeros behind the prompt."""
    out = np.zeros((1, length), np.int32)
    out[0, : len(ids)] = ids
    return out


def run_layer(
    runs: Sequence[Run],
    states: States,
    geometry: Geometry,
    lengths: Sequence[int],
    positions: Array,
    unmask: Unmask | None = None,
) -> LayerRun:
    """`runs`: the layer's nets in the order of graphs.layer_nets. `lengths`: real positions of each chunk of the
    prompt. `positions` [axes, T] int32: rows of the rotary tables, of the prompt and the steps behind it. `unmask`:
    lets some of a chunk's positions see later ones.

    The KV cache is filled as the runtime fills it. A decode step of several conversations: `seated`.
    """
    layer, out = _Layer(geometry, positions, unmask), LayerRun()
    for state, length in zip(states.chunks, lengths, strict=True):
        prefill = runs[2] if layer.past else runs[0]
        out.chunks.append(layer.run(prefill, state, length))
    for step in states.steps:
        out.steps.append(layer.step(runs[1], step))
    return out


class _Layer:
    """One layer's KV cache, of which `past` positions are in use."""

    def __init__(self, geometry: Geometry, positions: Array, unmask: Unmask | None) -> None:
        self.geometry, self.positions, self.unmask, self.past = geometry, positions, unmask, 0
        self.steps, self.count = dict[int, dict[str, Array]](), -1  # those that are seated, and the last one's number
        sizes = {"history_k": geometry.head_dim, "history_v": geometry.v_head_dim}
        shape = (1, geometry.seq_length, geometry.kv_heads)
        self.history = {name: np.zeros((*shape, size), np.float32) for name, size in sizes.items()}

    def run(self, net: Run, state: Array, count: int) -> Call:
        """`state` [1, T, H], of which `count` positions are real, through `net`; their k and v go into the cache."""
        return self._call(net, self._inputs(state, count), count, 0)

    def step(self, net: Run, state: Array) -> Call:
        """`state` [1, 1, H] through `net`, which takes on as many conversations as the geometry says."""
        seats, self.count = self.geometry.batch, self.count + 1
        self.steps.pop(self.count - seats, None)
        self.steps[self.count] = self._inputs(state, 1)
        together = [self.steps[step] for step in seated(self.count, seats)]
        inputs = {name: np.concatenate([each[name] for each in together]) for name in together[0]}
        return self._call(net, inputs, 1, self.count % seats)

    def _inputs(self, state: Array, count: int) -> dict[str, Array]:
        length, end = state.shape[1], self.geometry.seq_length
        # Padding takes the last position again: what follows may lie beyond the tables' end.
        places = np.minimum(np.arange(self.past, self.past + length), self.positions.shape[1] - 1)
        mask = history_mask(length, end, self.past) if self.past else prefill_mask(length)
        if self.unmask and length > 1:
            self.unmask(mask[0, 0, :count, mask.shape[3] - length :][:, :count], self.past)
        inputs = {
            "input_states": state,
            "position_ids": self.positions[:, places],
            "attention_mask": mask,
        }
        if self.past:
            inputs |= {name: value.copy() for name, value in self.history.items()}
        return inputs

    def _call(self, net: Run, inputs: dict[str, Array], count: int, seat: int) -> Call:
        without = {t.name: np.zeros(t.shape, np.float32) for t in graphs.lora_inputs(self.geometry)}
        inputs = {**inputs, **without}
        call = Call(inputs, net(inputs))
        for name, fresh in (("history_k", "k_cache"), ("history_v", "v_cache")):
            self.history[name][:, self.past : self.past + count] = call.outputs[fresh][seat, :count]
        self.past += count
        return call


def onnx_runner(path: Path) -> Run:
    """A graph in ONNX Runtime on the CPU. Integer outputs come back as int32, as the chip gives them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # steps beside this one want the cores
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        values = session.run(names, {k: v for k, v in inputs.items() if k in wanted})
        return {
            name: np.asarray(value).astype(np.int32) if np.asarray(value).dtype == np.int64 else np.asarray(value)
            for name, value in zip(names, values, strict=True)
        }

    return run


def torch_runner(module: Any, net: graphs.GraphSpec) -> Run:
    """A module whose positional inputs and outputs are those of `net`."""
    import torch

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            values = module(*(torch.from_numpy(inputs[t.name]) for t in net.inputs))
        values = values if isinstance(values, tuple) else (values,)
        return {t.name: v.numpy() for t, v in zip(net.outputs, values, strict=True)}

    return run


def distance(truth: Array, found: Array) -> float:
    """Largest absolute difference; where a position holds values above 1, in units of its largest value.

    Float32 resolves 24 bits of the largest term of a sum, and the residual stream of trained models reaches 1e4,
    where one float32 step is 1e-3: below that no two orders of summation agree. NaN passes no bar.
    """
    truth, found = truth.astype(np.float64), found.astype(np.float64)
    scale = np.maximum(np.abs(truth).max(axis=-1, keepdims=True, initial=0.0), 1.0)
    return float((np.abs(truth - found) / scale).max(initial=0.0))
