"""One layer over a prompt and over real decode steps, by torch or by ONNX Runtime, with the same bookkeeping.

Because the tokens are known beforehand, a layer can do all its steps before the next layer starts, so that only one
layer is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from contract import graphs
from contract.graphs import MASKED, Geometry

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[dict[str, Array]], dict[str, Array]]
STATES = "output_states"


@dataclass
class States:
    """Hidden states on their way through the layers: `prefill` [1, S, H], `steps` of [1, 1, H] each."""

    prefill: Array
    steps: list[Array]


@dataclass
class Call:
    """One run of a net, kept for comparison: inputs and outputs by tensor name."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


@dataclass
class LayerRun:
    """All runs of one layer: the prefill and each decode step, and the states it hands on."""

    prefill: Call
    steps: list[Call] = field(default_factory=list)

    def states(self) -> States:
        return States(self.prefill.outputs[STATES], [call.outputs[STATES] for call in self.steps])


def prefill_mask(length: int) -> Array:
    """[1, 1, S, S]: position i sees 0..i. Padding lies after every real position, so this hides it too."""
    return np.triu(np.full((1, 1, length, length), MASKED, np.float32), k=1)


def decode_mask(length: int, past: int) -> Array:
    """[1, 1, 1, S + 1]: the first `past` of the cache, and the step itself at the end."""
    mask = np.full((1, 1, 1, length + 1), MASKED, np.float32)
    mask[..., :past] = 0
    mask[..., length] = 0
    return mask


def padded(ids: list[int], length: int) -> Array:
    """[1, S] int32, zeros behind the prompt."""
    out = np.zeros((1, length), np.int32)
    out[0, : len(ids)] = ids
    return out


def run_layer(runs: tuple[Run, Run], states: States, geometry: Geometry, valid: int, row: int = 0) -> LayerRun:
    """`runs`: the prefill and the decode net. `valid`: real positions of the prompt. `row`: the row of the rotary
    tables that stands for position 0 in a conversation of this length.

    The KV cache is filled as the runtime fills it.
    """
    prefill, decode = runs
    length = geometry.seq_length
    inputs = {
        "input_states": states.prefill,
        "position_ids": np.arange(row, row + length, dtype=np.int32)[None],
        "attention_mask": prefill_mask(length),
    }
    out = LayerRun(Call(inputs, prefill(inputs)))
    sizes = {"history_k": geometry.head_dim, "history_v": geometry.v_head_dim}
    history = {n: np.zeros((1, length, geometry.kv_heads, size), np.float32) for n, size in sizes.items()}
    fresh = {"history_k": "k_cache", "history_v": "v_cache"}
    for name, source in fresh.items():
        history[name][:, :valid] = out.prefill.outputs[source][:, :valid]
    for number, step in enumerate(states.steps):
        past = valid + number
        inputs = {
            "input_states": step,
            "position_ids": np.array([[row + past]], np.int32),
            "attention_mask": decode_mask(length, past),
            **{name: value.copy() for name, value in history.items()},
        }
        call = Call(inputs, decode(inputs))
        for name, source in fresh.items():
            history[name][:, past] = call.outputs[source][:, 0]
        out.steps.append(call)
    return out


def onnx_runner(path: Path) -> Run:
    """A graph in ONNX Runtime on the CPU. Integer outputs come back as int32, as the chip gives them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
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
