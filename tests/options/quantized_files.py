"""Quantised checkpoints of tiny models, packed as the published formats are: by their writers' loops, not our reader's.

Levels and zero points are random, and no group uses its lowest or highest level: a quantiser that looks at the
smallest and largest weight of a group finds another grid.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests import tiny

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]
GROUP = 64


@dataclass(frozen=True)
class Levels:
    """`levels` [N, K], `zeros` and `scales` [N, groups], `group_of` [K]."""

    levels: Array
    zeros: Array
    scales: Array
    group_of: Array

    def weight(self) -> Array:
        value = np.zeros(self.levels.shape, np.float32)
        for channel, group in enumerate(self.group_of):
            steps = self.levels[:, channel].astype(np.float32) - self.zeros[:, group].astype(np.float32)
            value[:, channel] = steps * self.scales[:, group].astype(np.float32)
        return value


def _packed(values: Array, axis: int, bits: int, order: list[int]) -> Array:
    """int32 whose i-th field, from the low bits, holds value order[i] of its eight (or four) along `axis`."""
    count = 32 // bits
    rows = np.moveaxis(values.astype(np.uint32), axis, 0)
    out = np.zeros((rows.shape[0] // count, *rows.shape[1:]), np.uint32)
    for place in range(out.shape[0]):
        for i in range(count):
            out[place] |= rows[place * count + order[i]] << np.uint32(i * bits)
    return np.ascontiguousarray(np.moveaxis(out, 0, axis)).view(np.int32)


def awq(made: Levels, bits: int) -> Tensors:
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # AutoAWQ's order_map
    return {
        "qweight": _packed(made.levels.T, 1, bits, order),
        "qzeros": _packed(made.zeros.T, 1, bits, order),
        "scales": np.ascontiguousarray(made.scales.T),
    }


def _gptq(made: Levels, bits: int, zeros: Array) -> Tensors:
    order = list(range(32 // bits))
    return {
        "qweight": _packed(made.levels.T, 0, bits, order),
        "qzeros": _packed(zeros.T, 1, bits, order),
        "scales": np.ascontiguousarray(made.scales.T),
        "g_idx": made.group_of.astype(np.int32),
    }


def gptq(made: Levels, bits: int) -> Tensors:
    return _gptq(made, bits, made.zeros - 1)


def gptq_v2(made: Levels, bits: int) -> Tensors:
    return _gptq(made, bits, made.zeros)


def compressed(made: Levels, bits: int) -> Tensors:
    order = list(range(32 // bits))
    return {
        "weight_packed": _packed(made.levels, 1, bits, order),
        "weight_scale": made.scales,
        "weight_shape": np.array(made.levels.shape, np.int64),
        "weight_zero_point": _packed(made.zeros, 0, bits, order),
    }


def compressed_symmetric(made: Levels, bits: int) -> Tensors:
    return {k: v for k, v in compressed(made, bits).items() if k != "weight_zero_point"}


def _ct(symmetric: bool) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": GROUP}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


AWQ = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": GROUP, "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False}


@dataclass(frozen=True)
class Format:
    """`config`: its quantization_config. `zero`: every zero point, or None for random ones."""

    config: dict[str, Any]
    pack: Callable[[Levels, int], Tensors]
    zero: int | None = None
    bits: int = 4
    per_row: bool = False
    shuffled: bool = False
    changes: dict[str, Any] = field(default_factory=dict)


FORMATS = {
    "awq": Format(AWQ, awq),
    "gptq": Format(GPTQ, gptq),
    "gptq-v2": Format({**GPTQ, "checkpoint_format": "gptq_v2"}, gptq_v2),
    "gptq-act-order": Format({**GPTQ, "desc_act": True}, gptq, shuffled=True),
    "gptq-per-row": Format({**GPTQ, "group_size": -1, "sym": True}, gptq, zero=8, per_row=True),
    "gptq-8bit": Format({**GPTQ, "bits": 8}, gptq, bits=8),
    "pack-quantized": Format(_ct(True), compressed_symmetric, zero=8),
    "pack-quantized-zeros": Format(_ct(False), compressed),
}


def make(name: str, folder: Path, case: str = "qwen2", **changes: Any) -> Tensors:
    """Write a tiny checkpoint whose layers' linear modules are in that format; the weights that they stand for."""
    tiny.make(case, folder, **changes)
    return quantize(name, folder)


def quantize(name: str, folder: Path) -> Tensors:
    """The same of a checkpoint that is there; a tower beside its decoder stays as it is."""
    form = FORMATS[name]
    tensors = load_file(folder / "model.safetensors")
    drawn, truth = np.random.default_rng(0), {}
    for key in [k for k in tensors if k.endswith("_proj.weight") and not k.startswith("visual.")]:
        made = _levels(drawn, tensors.pop(key).shape, form)
        module = key.removesuffix(".weight")
        tensors |= {f"{module}.{part}": value for part, value in form.pack(made, form.bits).items()}
        truth[key] = made.weight()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": form.config}))
    return truth


def _levels(drawn: np.random.Generator, shape: tuple[int, int], form: Format) -> Levels:
    top = 2**form.bits
    groups = 1 if form.per_row else shape[1] // GROUP
    levels = drawn.integers(top // 8, top - top // 8, shape).astype(np.uint8)
    zeros = drawn.integers(1, top, (shape[0], groups)) if form.zero is None else np.full((shape[0], groups), form.zero)
    zeros = np.clip(zeros, top // 2 - 2, top // 2 + 2)  # nearly centred, so that hidden states stay small
    scales = (0.4 / top * (1 + drawn.random(zeros.shape))).astype(np.float16)
    group_of = np.arange(shape[1]) // (shape[1] // groups)
    return Levels(levels, zeros.astype(np.uint8), scales, drawn.permutation(group_of) if form.shuffled else group_of)
