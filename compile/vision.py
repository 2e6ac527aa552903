"""The vision tower's net: the largest picture it takes, its type, and which choices about that cannot be."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from contract import graphs, towers
from contract.errors import UserError, one_of
from contract.graphs import GraphSpec
from contract.modes import MODES

if TYPE_CHECKING:
    from compile.plan import Options
    from exporters.spec import DecoderSpec
    from exporters.vision import Size, VisionSpec

PICTURES = ("max_pixels", "vit", "dynamic_vit")  # the options that mean nothing to a model that does not see


def settle(spec: DecoderSpec, options: Options) -> Options:
    """With the largest picture, as "height,width", where the user leaves it to the model."""
    if spec.vision is None or options.max_pixels is not None:
        return options
    if side := spec.vision.picture:
        return replace(options, max_pixels=f"{side},{side}")
    return replace(options, max_pixels=",".join(map(str, spec.vision.size)))


def size(options: Options) -> Size | None:
    """Height and width of the largest picture in pixels, None for a model that does not see. UserError for text that
    is no such pair."""
    if options.max_pixels is None:
        return None
    parts = options.max_pixels.split(",")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise UserError(f'"{options.max_pixels}" is no height and width', "--max-pixels", "write them as 672,896")
    return int(parts[0]), int(parts[1])


def check(spec: DecoderSpec, options: Options) -> None:
    """UserError for choices about pictures that the model has no use for, and sizes that its patches do not fill."""
    if spec.vision is None:
        for name in PICTURES:
            if getattr(options, name):
                what = f"{spec.model_type} models see no pictures"
                raise UserError(what, f"--{name.replace('_', '-')}", "leave it out")
        return
    chosen = size(options)
    assert chosen
    _check_size(spec.vision, chosen)
    if options.vit == "bf16" and MODES[options.mode].half != graphs.BFLOAT16:
        raise UserError(f"mode {options.mode} has no bfloat16", "--vit", "leave it out, or use MODE=bf16")
    if options.dynamic_vit and (spec.vision.picture or spec.vision.queries):
        raise UserError("pictures of this model have one size", "--dynamic-vit", "leave it out")
    _check_room(spec.vision, chosen, options)


def _check_room(spec: VisionSpec, chosen: Size, options: Options) -> None:
    """The largest picture must fit a prompt; rows that see each other, one chunk of it."""
    rows, whole = spec.geometry(chosen).rows, options.history and not spec.together
    limit = options.seq_length if whole else options.prefill_length or options.seq_length
    if rows >= limit:
        what = f"a picture of {chosen[0]} x {chosen[1]} pixels takes {rows} positions, and a prompt has {limit}"
        longer = "a larger --seq-length" if limit == options.seq_length else "a larger --input-length"
        smaller = "" if spec.picture else ", or a smaller --max-pixels"
        raise UserError(what, "--max-pixels", f"use {longer}{smaller}")


def _check_size(spec: VisionSpec, chosen: Size) -> None:
    if spec.picture:
        if chosen != (spec.picture, spec.picture):
            remedy = f"leave it out, or use {spec.picture},{spec.picture}"
            raise UserError("pictures of this model have one size", "--max-pixels", remedy)
        return
    unit = spec.unit
    if any(side % unit for side in chosen):
        choices = [sorted({max(unit, side // unit * unit), -(-side // unit) * unit}) for side in chosen]
        near = [f"{high},{wide}" for high in choices[0] for wide in choices[1]]
        what = f"{chosen[0]} x {chosen[1]} pixels are no multiples of {unit} (patch {spec.patch} x merge {spec.merge})"
        raise UserError(what, "--max-pixels", f"use {one_of(near)}")


def nets(spec: DecoderSpec, options: Options, geometry: graphs.Geometry) -> tuple[GraphSpec, ...]:
    """The tower's net, and the one that adds its deepstack features."""
    chosen = size(options)
    if spec.vision is None or chosen is None:
        return ()
    vit = towers.vit(spec.vision.geometry(chosen, geometry.half))
    return (vit, *((graphs.add(geometry),) if spec.vision.deepstack else ()))


def tower(spec: DecoderSpec, options: Options) -> dict[str, Any] | None:
    """What the host must know of the tower, for the manifest."""
    chosen = size(options)
    if spec.vision is None or chosen is None:
        return None
    return asdict(replace(spec.vision.tower(chosen, spec.axes), dynamic=options.dynamic_vit))


def word(options: Options, half: str) -> str:
    """model_deploy's word for the tower. `half`: that of the mode's own half type."""
    return {None: half, "f16": "F16", "bf16": "BF16", "int8": f"W8{half}"}[options.vit]
