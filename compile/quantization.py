"""How the weights of each kind of net are quantised, and which choices cannot be.

model_deploy does the quantising. Per group of input channels it takes, asymmetric, the scale (max - min) / 15 and the
zero point round(-min / scale); symmetric, a scale from the largest magnitude and the zero point 8. Scales are stored in
the half type, which rounds them once more. Layers of a checkpoint that is quantised already, to as many bits as the
mode has, keep its levels, scales and zero points instead (compile.regrid).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import gcd
from typing import TYPE_CHECKING

from compile import vendor, vision
from contract import graphs
from contract.errors import UserError, one_of
from contract.modes import CHIPS, MODES

if TYPE_CHECKING:
    from compile.plan import Options
    from exporters.spec import DecoderSpec
    from recipes.recipe import Recipe


def check(recipe: Recipe, spec: DecoderSpec, options: Options) -> None:
    """UserError for a head that the mode has no type for, for symmetry of nothing, for groups that do not fit, and for
    layers of 8 bits on several devices."""
    if options.head == "bf16" and MODES[options.mode].half != graphs.BFLOAT16:
        remedy = "leave it out: the head is float16 then, as all else; or use MODE=bf16"
        raise UserError(f"mode {options.mode} has no bfloat16", "--head", remedy)
    words = {kind: recipe.quantize(kind, options.mode, options.head) for kind in graphs.KINDS}
    if options.symmetric and not any(word.startswith("W") for word in words.values()):
        remedy = "leave it out, or use MODE=int4 or int8"
        raise UserError(f"nothing is quantised in groups in mode {options.mode}", "--symmetric", remedy)
    for kind, word in words.items():
        if word.startswith("W4") and not (options.route == vendor.ROUTE and kind == graphs.LM_HEAD):
            _check_group(widths(spec, options.devices, kind), options)
        if word.startswith("W8") and kind in graphs.LAYER_KINDS and options.devices > 1:
            # --dev-parallel (1.30.2) aborts in opSliceAxis, at every group size, on bm1684x as on bm1688.
            what, remedy = "the compiler does not split layers of 8 bits", "use 1, or MODE=int4, bf16 or f16"
            raise UserError(what, "--devices", remedy)
        if word.startswith("W"):
            _check_outputs(_outputs(spec, options.devices, kind), options)


def _check_group(channels: Mapping[str, int], options: Options) -> None:
    """A group must fill whole channels, on one device: else the compiler pads it, or leaves the net unsplit."""
    fits = [g for g in (128, 64, 32) if all(width % g == 0 for width in channels.values())]
    for what, width in channels.items():
        if width % options.group_size:
            per = f" per device ({width})" if options.devices > 1 and what != "hidden size" else f" ({width})"
            coarser = "use MODE=int8" if options.devices == 1 else "use MODE=bf16"
            remedy = f"use {one_of(fits)}" if fits else coarser
            raise UserError(f"group size {options.group_size} does not divide the {what}{per}", "--group-size", remedy)


def _check_outputs(channels: Mapping[str, int], options: Options) -> None:
    """What the compiler itself answers with a crash, in matmuls with groups."""
    chip = CHIPS[options.chip]
    for what, width in channels.items():
        if options.devices > 1 and width % chip.lanes:
            problem = f"the {what} per device ({width}) is no multiple of {chip.lanes}, as {chip.name} needs it"
            raise UserError(f"{problem} in mode {options.mode}", "--devices", "use fewer devices, or MODE=bf16")
        blocks = -(-width // chip.lanes)
        each = -(-blocks // chip.cores)
        if chip.even and (width % chip.cores or -(-blocks // each) != chip.cores):
            problem = f"the {what} ({width}) cannot be shared evenly by the {chip.cores} cores of {chip.name}"
            raise UserError(f"{problem} in mode {options.mode}", "--mode", "use MODE=bf16 or f16")


def _outputs(spec: DecoderSpec, devices: int, kind: str) -> dict[str, int]:
    """Output channels of a net's linear layers, on one device. lm_head is left whole."""
    if kind == graphs.LM_HEAD:
        return {"vocabulary": spec.vocab} if devices == 1 else {}
    if kind not in graphs.LAYER_KINDS:
        return {}
    joint = {"width of q, k and v": (spec.heads + 2 * spec.kv_heads) * spec.head_dim}
    attention = joint if devices == 1 else {"width of k": spec.kv_heads * spec.head_dim // devices}
    return {**attention, "hidden size": spec.hidden, "intermediate size": spec.intermediate // devices}


def widths(spec: DecoderSpec, devices: int, kind: str) -> dict[str, int]:
    """Input channels of a net's linear layers, on one device; lm_head is split by its outputs."""
    if kind == graphs.LM_HEAD:
        return {"hidden size": spec.hidden}
    if kind == graphs.VIT and spec.vision:
        return dict(spec.vision.widths)
    return {name: width if name == "hidden size" else width // devices for name, width in spec.widths}


def half(spec: DecoderSpec, options: Options) -> str:
    """The type of hidden states: the mode's, or, by the vendor's converter, the checkpoint's."""
    return vendor.half(spec) if options.route == vendor.ROUTE else MODES[options.mode].half


def word(recipe: Recipe, spec: DecoderSpec, options: Options, kind: str, grid: int) -> str:
    """model_deploy's word for nets of `kind`. `grid`: bits of the levels that layers bring along (0: none); what else
    is in such a layer stays in the half type."""
    if options.route == vendor.ROUTE:
        return vendor.word(spec, options, kind)
    said = recipe.quantize(kind, options.mode, options.head)
    if kind == graphs.VIT:
        return vision.word(options, said)
    return said[2:] if grid and kind in graphs.LAYER_KINDS and said.startswith(f"W{grid}") else said


def keep_grid(spec: DecoderSpec, options: Options, bits: int, group: int, chosen: int | None) -> tuple[Options, int]:
    """Options and `grid` for a checkpoint with levels of `bits` in groups of `group` input channels (0: of all).

    Groups that do not divide every width are cut into such that do. UserError where the user chose another size, where
    a layer's weights are no plain matmuls, and for several devices: --dev-parallel (1.30.2) leaves the MLP of such a
    layer whole, at 128 by 66048 as at 2048 by 8192, and aborts ("size is 0") at groups of more than 32 channels.
    """
    if MODES[options.mode].bits != bits:
        return options, 0
    if spec.experts:
        what, remedy = "experts of a quantised checkpoint are not read", "use the checkpoint in float16 or bfloat16"
        raise UserError(what, spec.model_type, remedy)
    if options.devices > 1:
        what = "the compiler does not split layers that keep a quantised checkpoint's own grid"
        raise UserError(what, "--devices", "use 1, or MODE=bf16")
    common = gcd(*widths(spec, options.devices, graphs.BLOCK).values())
    size = gcd(group, common) if group else max(size for size in range(1, 129) if common % size == 0)
    if chosen not in (None, size):
        what = f"the checkpoint's weights lie in groups of {group or 'a whole row'}"
        raise UserError(what, "--group-size", f"leave it out, which gives {size}")
    return replace(options, group_size=size), bits


def group_size(spec: DecoderSpec, options: Options, kind: str, word: str) -> int:
    """Of 4 bits as chosen; of 8 the largest group of at most 128 channels that divides every width of a net.

    128 takes 1.6 % fewer cycles than 64 in decode (0.5B sizes) and is finer than one scale a channel.
    """
    if word.startswith("W4"):
        return options.group_size
    common = gcd(*widths(spec, options.devices, kind).values())
    return max(size for size in range(1, 129) if common % size == 0)
