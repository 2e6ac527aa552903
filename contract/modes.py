"""The values a build may choose from: modes, chips, and what each means to the compiler."""

from __future__ import annotations

from dataclasses import dataclass

from contract.graphs import BFLOAT16, FLOAT16


@dataclass(frozen=True)
class Mode:
    """`quantize`: model_deploy's name. `half`: storage type of activations. `bits`: bits a block weight takes."""

    name: str
    quantize: str
    half: str
    bits: int

    @property
    def grouped(self) -> bool:
        """Whether weights carry one scale per group of input channels."""
        return self.bits == 4


@dataclass(frozen=True)
class Chip:
    """`cores`: those that a net is compiled for. `lanes`: output channels that a core computes at once.

    `simulator`: the vendor's CPU model of the chip, a library of the tpu-mlir wheel that takes a board's calls; None
    where the wheel has none. `bmlib`: the library of such calls that fits it. `even`: matmuls with groups must keep
    every core busy, else the compiler crashes (tpu-mlir 1.30.2).
    """

    name: str
    cores: int
    lanes: int
    simulator: str | None
    bmlib: str = "libbmlib.so.0"
    even: bool = False


MODES = {
    m.name: m
    for m in (
        Mode("int4", "W4BF16", BFLOAT16, 4),
        Mode("int8", "W8BF16", BFLOAT16, 8),
        Mode("bf16", "BF16", BFLOAT16, 16),
        Mode("f16", "F16", FLOAT16, 16),
    )
}
CHIPS = {
    c.name: c
    for c in (
        Chip("bm1684x", 1, 64, "libcmodel_bm1684x.so"),
        Chip("bm1688", 2, 32, "libcmodel_bm1688.so"),
        Chip("cv186x", 1, 32, "libcmodel_bm1688.so"),
        Chip("bm1684x2", 4, 16, "libcmodel_bm1684x2.so", "libbmlib_bm1684x2.so.0"),
        # The wheel's model of it, libtpuv7_emulator.so, takes the calls of another runtime.
        Chip("bm1690", 8, 64, None, even=True),
    )
}
DEVICES = (1, 2, 4, 8)
# What lm_head's weights may be quantised to, whatever the mode does with the blocks.
HEADS = ("int4", "int8", "bf16")
# What a vision tower's weights may be, whatever the mode does with the blocks.
VITS = ("f16", "bf16", "int8")
# How a checkpoint becomes nets: by way of our ONNX, or by the vendor's own converter (compile.vendor).
ROUTES = ("onnx", "llm_convert")
# Where the embedding table is looked up: by nets of the bmodel, or on the host, in a file beside it.
EMBEDS = ("chip", "disk")
# How much of the ladder a build climbs: all, the rungs that need no simulator, or nothing.
VERIFY = ("full", "host", "none")
# Where tpu-mlir is looked for (compile.toolchain).
TOOLCHAINS = ("auto", "path", "managed", "docker")
EXECUTORS = ("local", "ray")
