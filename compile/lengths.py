"""How many positions a prefill net takes at once, and which choices about that cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contract.errors import UserError
from exporters.architecture import find

if TYPE_CHECKING:
    from compile.plan import Options
    from exporters.spec import DecoderSpec

LEAVE_OUT = "leave it out"
_SHARE = 4  # of the sequence is a chunk, where nobody says more: llm_convert's choice under --use_history_kv


def input_length(seq_length: int, chosen: int | None, history: bool) -> int:
    """Positions of a prefill net; 0 for all of the sequence."""
    return chosen or (max(seq_length // _SHARE, 1) if history else 0)


def flags(seq_length: int, chosen: int | None, history: bool) -> tuple[str, ...]:
    """The same for the exporter's command line."""
    length = input_length(seq_length, chosen, history)
    words = ("--input-length", str(length)) if length else ()
    return (*words, "--history") if history else words


def check(spec: DecoderSpec, options: Options) -> None:
    """UserError for prefill nets longer than the sequence, and where a conversation must be computed anew at a length
    that they do not take."""
    length = input_length(options.seq_length, options.input_length, options.history)
    if length > options.seq_length:
        remedy = f"use 1 to {options.seq_length}"
        raise UserError(f"{length} positions are more than the sequence has", "--input-length", remedy)
    late = [switch for switch in spec.switches(options.seq_length) if length and switch >= length]
    if late and spec.rope_restarts and not options.history:
        what = f"beyond {late[-1]} positions the model's rope changes, and all of a conversation must be prefilled anew"
        remedy = f"use {late[-1] + 1} or more, or --history"
        raise UserError(what, "--input-length", remedy)
    if options.dynamic:
        _check_dynamic(spec, options)


def _check_dynamic(spec: DecoderSpec, options: Options) -> None:
    """Distances between positions are cut from tables at the built length. A norm of heads, and a choice of experts,
    ends the process on the simulator when it is dynamic (tpu-mlir 1.30.2). So do several devices at any other length
    than the built one, which --dev-parallel writes into the reshapes of q, k and v."""
    if options.devices > 1:
        what, remedy = "dynamic nets are not split over devices", f"{LEAVE_OUT}, or use --devices 1"
        raise UserError(what, "--dynamic", remedy)
    swaps = find(spec.model_type).swaps
    if any("q_norm" in swap.sources(spec, options.devices) for swap in swaps):
        what = f"{spec.model_type} models norm their heads, which dynamic nets cannot"
        raise UserError(what, "--dynamic", LEAVE_OUT)
    if spec.experts:
        raise UserError(f"{spec.model_type} models choose experts, which dynamic nets cannot", "--dynamic", LEAVE_OUT)
    short = [window for window in spec.windows if window and window < options.seq_length]
    if short:
        what, remedy = f"windows of {short[0]} positions", f"{LEAVE_OUT}, or use --seq-length {min(short)} or less"
        raise UserError(f"dynamic nets know no {what}", "--dynamic", remedy)
    if spec.alibi:
        what = f"dynamic nets know no ALiBi, which {spec.model_type} models of this size have"
        raise UserError(what, "--dynamic", LEAVE_OUT)
