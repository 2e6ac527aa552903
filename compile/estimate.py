"""What a build will take, from sizes alone: bytes on disk, and bytes of memory of each kind of step.

Estimates err on the high side. They rest on measurements of tpu-mlir 1.30.2 (0.5B and 7B sizes); B is the float32
weight bytes of the step's group:
    model_transform   0.95 GB (its imports) + 1.9 B to 3.8 B
    model_deploy      0.15 GB + 1.7 B (a block) to 3.5 B (a vocabulary projection)
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from contract.errors import UserError
from contract.modes import MODES

if TYPE_CHECKING:
    from exporters.spec import DecoderSpec

GB = 10**9
_KERNEL = 6 * 10**6  # the chip's kernel module, a copy in each net's bmodel
_KEPT_STEPS = 3  # decode steps that the parity step keeps of each layer


def group_bytes(spec: DecoderSpec, group: str) -> int:
    """Float32 bytes of a group's weights: embedding, head, or layer_<i>."""
    if not group.startswith("layer_"):
        return 4 * spec.vocab * spec.hidden
    attention = 2 * spec.hidden * (spec.heads + spec.kv_heads) * spec.head_dim
    return 4 * (attention + 3 * spec.hidden * spec.intermediate + 4 * spec.hidden)


def disk(spec: DecoderSpec, mode: str, seq_length: int) -> int:
    """Bytes that a build folder may grow to: weights for the compiler, one bmodel a net, the whole, references."""
    layer, table = group_bytes(spec, "layer_0"), group_bytes(spec, "embedding")
    weights = spec.layers * layer + 2 * table
    passing = 6 * table  # embedding, embedding_cache and lm_head in model_transform at once: two copies each
    bits = MODES[mode].bits * (1 if MODES[mode].bits == 16 else 1.25)  # a quarter more for scales
    blocks = int(spec.layers * layer * bits / 32)
    # Each block, each block_cache and the whole; the tables in 16 bits, at most.
    bmodels = 3 * blocks + 5 * table // 2 + (2 * spec.layers + 5) * _KERNEL
    kv = spec.kv_heads * spec.head_dim
    prefill = seq_length * (2 * spec.hidden + seq_length + 2 * kv)
    decode = _KEPT_STEPS * 2 * seq_length * kv
    references = 4 * spec.layers * (prefill + decode)
    return weights + passing + bmodels + references


def transform_memory(spec: DecoderSpec, group: str) -> int:
    return GB + 4 * group_bytes(spec, group)


def deploy_memory(spec: DecoderSpec, group: str) -> int:
    return GB // 4 + 7 * group_bytes(spec, group) // 2


def parity_memory(spec: DecoderSpec) -> int:
    """Hugging Face's model in float32 (the step offloads what does not fit), and a layer twice beside it."""
    layer, table = group_bytes(spec, "layer_0"), group_bytes(spec, "embedding")
    return GB + spec.layers * layer + 2 * table + 3 * layer


def check_disk(folder: Path, needed: int) -> None:
    """UserError where `folder`, or the nearest folder above it that exists, has less than `needed` bytes free."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        what = f"the build may need {needed / GB:.1f} GB more and {free / GB:.1f} GB are free"
        raise UserError(what, str(existing), "free some space, or choose another place with OUT=")
