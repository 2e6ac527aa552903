"""Which sequence lengths, and how many conversations and devices, a model can be built for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from contract.errors import UserError, one_of
from contract.graphs import Geometry
from contract.modes import DEVICES
from exporters import lora
from exporters.architecture import find

if TYPE_CHECKING:
    from compile.plan import Options
    from exporters.spec import DecoderSpec


# Matrices of an MLP with no more weights than this stay whole (--dev-parallel of tpu-mlir 1.30.2), and then the parts
# of the net do not fit together.
SPLIT_ABOVE = 0x400000


def geometry(spec: DecoderSpec, options: Options, half: str) -> Geometry:
    """Of the nets. `half`: the type of hidden states. UserError for a model whose layers take no adapters."""
    plain = spec.geometry(options.seq_length, half, options.prefill_length, options.batch)
    return replace(plain, lora=lora.adapted(spec, options.lora))


def check(spec: DecoderSpec, options: Options) -> None:
    """UserError for more positions than the model was made for, for heads or an MLP that devices cannot share, and for
    conversations side by side or adapters where there is no place for them."""
    if options.seq_length > spec.max_positions:
        remedy = f"use 1 to {spec.max_positions}, the model's limit"
        raise UserError(f"{options.seq_length} positions cannot be built", "--seq-length", remedy)
    if options.batch > 1:
        _check_batch(spec, options)
    if options.lora:
        _check_lora(spec, options)
    if options.devices > 1 and not find(spec.model_type).split:
        what = f"layers of {spec.model_type} models cannot be split over devices"
        raise UserError(what, "--devices", "use 1")
    if options.devices > 1 and any(window and window < options.seq_length for window in spec.windows):
        what = "attention to a window shorter than the sequence cannot be split over devices"
        raise UserError(what, "--devices", "use 1, or a --seq-length within the window")
    if options.devices > 1 and spec.hidden * spec.intermediate <= SPLIT_ABOVE:
        what = f"MLP matrices of {spec.hidden} by {spec.intermediate} weights are too small to be split over devices"
        raise UserError(what, "--devices", f"use 1: the compiler splits those of more than {SPLIT_ABOVE} weights")
    if spec.heads % options.devices or spec.kv_heads % options.devices:
        fits = [n for n in DEVICES if spec.heads % n == spec.kv_heads % n == 0]
        heads = f"{spec.heads} heads and {spec.kv_heads} KV heads"
        raise UserError(f"{heads} cannot be split over {options.devices} devices", "--devices", f"use {one_of(fits)}")


def _check_batch(spec: DecoderSpec, options: Options) -> None:
    if options.history:
        what = "a chunk behind a history would write into the next conversation's cache"
        raise UserError(what, "--batch", "leave out --history")
    if options.devices > 1:
        raise UserError("conversations side by side are not split over devices", "--batch", "use --devices 1")
    if spec.vision or spec.axes > 1:
        raise UserError(f"{spec.model_type} models take on one conversation at a time", "--batch", "use 1")


def _check_lora(spec: DecoderSpec, options: Options) -> None:
    if options.devices > 1:
        raise UserError("nets that take adapters are not split over devices", "--lora", "use --devices 1")
    if options.dynamic:
        raise UserError("dynamic nets take no adapters", "--lora", "leave out --dynamic")
    if options.history:
        raise UserError("nets that prefill over a history take no adapters", "--lora", "leave out --history")
    if options.batch > 1:
        raise UserError("nets for conversations side by side take no adapters", "--lora", "use --batch 1")
    if spec.vision:
        raise UserError(f"nets of {spec.model_type} models take no adapters", "--lora", "merge one with --adapter")
