"""One net's GraphSpec and options to the argv of model_transform and model_deploy, and the order of combining.

It knows every flag the compiler is called with, and why. It starts nothing (compile.executor does) and does not know
which steps a build has (compile.plan does).

Wall times below: 2-core machine, tpu-mlir 1.30.2, a Qwen2.5-0.5B block (hidden 896, sequence 512), W4BF16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compile import kernels
from contract import graphs
from contract.modes import CHIPS

# The tools' own default is 4 threads, which only spin: a block takes 0.94 s and 1.36 s of CPU with 4, and 0.97 s and
# 0.97 s with 1. The result is the same, and the executor fills the cores with other nets.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", **kernels.ENVIRONMENT}

PREFILL = (graphs.EMBEDDING, graphs.BLOCK, graphs.BLOCK_KV)
_SINGLE_CHIP = (graphs.GREEDY_HEAD, graphs.SAMPLE_HEAD)


@dataclass(frozen=True)
class Target:
    """`group_size`: input channels per scale of a 4- or 8-bit weight; `symmetric`: without a zero point beside it.
    `devices`: chips that share a net's weights.
    `layer_norm`: the model's norms are LayerNorm, which --high_precision computes in float32, with the input of every
    net that begins with one; others take the half type, as all nets between them must. `dynamic`: prefill nets take
    any number of positions up to the built one; `dynamic_vit`: the tower any number of patches."""

    chip: str
    devices: int
    group_size: int
    layer_norm: bool = False
    symmetric: bool = False
    dynamic: bool = False
    dynamic_vit: bool = False


def transform(name: str, onnx: str) -> tuple[str, ...]:
    """ONNX to `<name>.mlir` and its weights `<name>_top_f32_all_weight.npz`, in the working directory.

    An empty --do_onnx_sim means False (the tool takes any text for True). Without it and without inference a block
    takes 4.3 s and 1.06 GB instead of 6.0 s and 1.4 GB, and the mlir is the same byte for byte, provided that the
    graph computes no shapes (no Shape node: sizes traced as numbers). 2.7 s of the rest are Python's imports.
    """
    return (
        "model_transform.py",
        *("--model_name", name),
        *("--model_def", onnx),
        *("--mlir", f"{name}.mlir"),
        "--do_onnx_sim=",
        "--not_inference",
    )


def deploy(net: graphs.GraphSpec, quantize: str, target: Target) -> tuple[str, ...]:
    """`<net>.mlir` to `<net>.bmodel` and `compiler_profile_0.txt`, in the working directory: 0.9 s, 170 MB.

    The flags per kind of net are those of the vendor's llm_convert. --skip_validation saves nothing, since without
    --test_input there is no validation. Two runs differ in the time stamp only.
    """
    return (
        "model_deploy.py",
        *("--mlir", f"{net.name}.mlir"),
        *("--model", f"{net.name}.bmodel"),
        *("--chip", target.chip),
        *_quantization(net, quantize, target),
        *_parallel(net.kind, target),
        *("--addr_mode", _addr_mode(net.kind)),
        *(("--dynamic",) if _dynamic(net.kind, target) else ()),
        *(() if target.layer_norm else ("--high_precision",)),
        "--disable_gdma_check",
    )


def combine_order(nets: Sequence[graphs.GraphSpec]) -> tuple[graphs.GraphSpec, ...]:
    """The order of `nets` that needs the least device memory: llm_convert's, nets that bring weights first.

    Weights are shared in any order; in the order of execution the runtime part took 4 % more (a 2-layer model).
    """
    followers = (graphs.EMBEDDING_CACHE, graphs.BLOCK, graphs.BLOCK_KV)
    return tuple(sorted(nets, key=lambda net: net.kind in followers))


def combine(files: Sequence[str], out: str, *flags: str) -> tuple[str, ...]:
    """The command that makes one bmodel of those in the steps' `files`."""
    return ("python", "-m", "compile.combine", *flags, out, *(f"../{file}" for file in files))


def _dynamic(kind: str, target: Target) -> bool:
    if kind == graphs.VIT:
        return target.dynamic_vit
    return kind == graphs.SAMPLE_HEAD or (target.dynamic and kind in PREFILL)


def _quantization(net: graphs.GraphSpec, quantize: str, target: Target) -> tuple[str, ...]:
    """--quant_input and --quant_output strip the casts at a net's ends: tensors there are of the chip's half type.
    Pictures come as float32, and a tower in float16 may have to give bfloat16.

    The group is always named: left to itself (64 or, told 0, 128 for 8 bits), the tool silently keeps 16 bits where
    the group does not divide the channels, or cuts them into groups that do not fit and computes nonsense.
    """
    kind, words = net.kind, ["--quantize", quantize]
    if quantize.startswith(("W4", "W8")):
        words += ["--q_group_size", str(target.group_size), *(("--q_symmetric",) if target.symmetric else ())]
    if kind not in (*_SINGLE_CHIP, graphs.VIT):
        words.append("--quant_input")
    if kind == graphs.VIT and quantize == "F16" and net.outputs[0].dtype == graphs.BFLOAT16:
        words.append("--quant_output_bf16")
    elif kind not in (*_SINGLE_CHIP, graphs.LM_HEAD):  # lm_head's logits and token id are float32 and int32
        words.append("--quant_output")
    return tuple(words)


def _parallel(kind: str, target: Target) -> tuple[str, ...]:
    """A tower stays whole, on the first device: --dev-parallel (1.30.2) ends in a segmentation fault at InternVL's."""
    if kind in _SINGLE_CHIP:
        return ()
    devices = 1 if kind == graphs.VIT else target.devices
    return ("--num_core", str(CHIPS[target.chip].cores), "--num_device", str(devices))


def _addr_mode(kind: str) -> str:
    """io_alone gives inputs and outputs memory of their own, so that a KV cache can stay where it is."""
    return "io_alone" if kind in (graphs.BLOCK_CACHE, *_SINGLE_CHIP) else "basic"
