"""The route through tpu-mlir's own llm_convert: what it is called with, and what it is known to fail on.

It converts a checkpoint, quantised or not, by itself, in one go. Its nets have the names and shapes of contract.graphs,
so all that comes after, and the ladder, is as on our own route: the host's rungs hold our ONNX against Hugging Face,
and the chip's rung holds llm_convert's nets against that ONNX, with the final norm where llm_convert puts it, in the
last layer (exporters.normed). Seen with tpu-mlir 1.30.2.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from contract import graphs
from contract.errors import UserError, one_of
from contract.modes import MODES

if TYPE_CHECKING:
    from compile.plan import Options
    from compile.toolchain import Runner
    from exporters.spec import DecoderSpec

ROUTE = "llm_convert"
# Of the model types that we know, those that it takes.
MODEL_TYPES = ("chatglm", "llama", "phi3", "qwen2", "qwen2_5_vl", "qwen2_vl", "qwen3", "qwen3_vl")
# Where it looks in config.json, beyond what the model types' own readers do, by paths of which one must be there.
# Without the sections it takes those of heads of 128, and of others computes nonsense.
_SECTIONS = "rope_scaling.mrope_section"
READ = {
    "qwen2_5_vl": (("vision_config.in_chans",), (_SECTIONS, f"text_config.{_SECTIONS}")),
    "qwen2_vl": (("vision_config.in_chans",), (_SECTIONS,)),
    "qwen3_vl": ((f"text_config.{_SECTIONS}",),),
}
# The size of the tower's heads that it writes down as a number.
TOWER_HEADS = {"qwen2_5_vl": 80, "qwen2_vl": 80}
# Nets without weights, which we make on this route as well: its sample_head keeps the five likeliest tokens whatever
# top_p says, and leaves out the one that crosses it.
NOT_TAKEN = (graphs.GREEDY_HEAD, graphs.SAMPLE_HEAD)
OURS = "leave out --route"


class Scheme(Protocol):
    """exporters.quantized.Scheme, which this floor does not import."""

    @property
    def method(self) -> str: ...

    @property
    def bits(self) -> int: ...

    @property
    def group_size(self) -> int: ...

    @property
    def v1(self) -> bool: ...


def half(spec: DecoderSpec) -> str:
    """It computes in the checkpoint's own type."""
    return graphs.FLOAT16 if spec.dtype == "float16" else graphs.BFLOAT16


def word(spec: DecoderSpec, options: Options, kind: str) -> str:
    """What it calls model_deploy with for nets of `kind`."""
    if kind in NOT_TAKEN:
        return "F32"
    weights = {4: "W4", 8: "W8"}.get(MODES[options.mode].bits, "") if kind in graphs.LAYER_KINDS else ""
    return weights + {graphs.FLOAT16: "F16", graphs.BFLOAT16: "BF16"}[half(spec)]


def check(spec: DecoderSpec, options: Options) -> None:
    """UserError, with the reason, where it would fail, or do something else than what was asked for."""
    _refuse(
        (spec.model_type not in MODEL_TYPES, f"it builds no {spec.model_type} for us, but {one_of(MODEL_TYPES)}"),
        (options.devices > 1, "its nets for several devices lack the final norm in lm_head"),
        (options.head is not None, "it keeps lm_head in 16 bits, whatever is asked for"),
        (options.adapter is not None, "it does not merge adapters"),
        (options.lora is not None, "its nets take adapters in another form"),
        (options.batch > 1, "its nets for several conversations do not compile"),
        (options.host_embedding, "it leaves its table in another place"),
        (options.history or options.dynamic or options.input_length is not None, "it has other forms of prefill"),
        (options.vit is not None, "it keeps the tower in the checkpoint's 16 bits"),
        (options.dynamic_vit, "its tower is static where its prefill is"),
    )
    heads = TOWER_HEADS.get(spec.model_type)
    if spec.vision and heads:
        told = f"it takes towers with heads of {heads} only, not of {spec.vision.head_dim}"
        _refuse((spec.vision.head_dim != heads, told))


def check_config(config: Mapping[str, Any]) -> None:
    """UserError where config.json lacks what only it looks for."""
    for choices in READ.get(config["model_type"], ()):
        if not any(_holds(config, path.split(".")) for path in choices):
            raise UserError(f"llm_convert looks for {one_of(choices)} in config.json", "--route", f"add it, or {OURS}")


def _holds(config: Mapping[str, Any], keys: list[str]) -> bool:
    inner = config.get(keys[0])
    return inner is not None if len(keys) == 1 else isinstance(inner, dict) and _holds(inner, keys[1:])


def check_checkpoint(spec: DecoderSpec, options: Options, scheme: Scheme | None) -> None:
    """The same, of the checkpoint itself: its type, and how it is quantised, if it is."""
    _refuse((spec.dtype not in ("float16", "bfloat16"), f"it fails on {spec.dtype} checkpoints"))
    if options.mode in ("bf16", "f16") and MODES[options.mode].half != half(spec):
        what = f"llm_convert mixes types where mode {options.mode} meets a {spec.dtype} checkpoint"
        raise UserError(what, "--mode", f"use {'f16' if options.mode == 'bf16' else 'bf16'}, or {OURS}")
    if scheme is None:
        return
    _refuse(
        (scheme.method == "awq" and spec.dtype != "float16", "it makes float16 nets of AWQ, whatever config.json says"),
        (scheme.method == "gptq" and not scheme.v1, "it reads zero points of GPTQ's v2 format one too high"),
        (scheme.group_size == 0, "it was not seen to handle one scale per row"),
    )
    if MODES[options.mode].bits != scheme.bits:
        raise UserError(
            f"llm_convert keeps the checkpoint's {scheme.bits} bits", "--mode", f"use int{scheme.bits}, or {OURS}"
        )


def _refuse(*reasons: tuple[bool, str]) -> None:
    for is_so, reason in reasons:
        if is_so:
            raise UserError(f"llm_convert cannot build this: {reason}", "--route", OURS)


def require(runner: Runner) -> None:
    """UserError where it cannot run: in docker, which does not see the checkpoint, and without GNU parallel, by which
    it starts its own steps."""
    if runner.docker:
        raise UserError("llm_convert cannot see the checkpoint in docker", "--toolchain", "use path or managed")
    if not shutil.which("parallel", path=runner.environment()["PATH"]):
        raise UserError("llm_convert needs GNU parallel", "--route", "install it (Debian: apt install parallel)")


def convert(model: str, spec: DecoderSpec, options: Options) -> tuple[tuple[str, ...], ...]:
    """Commands that leave a folder for each net, in a fresh working directory: it skips what it finds there, whatever
    it was made with. `<net>/` holds `<net>.bmodel`, `<net>/final.mlir` and the profiles."""
    quantize = word(spec, options, graphs.BLOCK).lower()
    flags = (("--do_sample",) if options.sample else ()) + (("--symmetric",) if options.symmetric else ())
    sizes = ("-s", str(options.seq_length), "-q", quantize, "-g", str(options.group_size), "-c", options.chip)
    pixels = ("--max_pixels", options.max_pixels) if options.max_pixels else ()
    return (
        ("llm_convert.py", "-m", model, *sizes, *flags, *pixels, "-o", "made"),
        ("sh", "-c", "mv made/*_static/*/ . && rm -r made"),
    )


def outputs(net: graphs.GraphSpec) -> tuple[str, ...]:
    files = (f"{net.name}.bmodel", f"{net.name}/final.mlir", "compiler_profile_*.txt")
    return tuple(f"{net.name}/{file}" for file in files)
