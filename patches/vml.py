"""torch's elementwise functions, made exact before their first use.

On CPUs torch hands contiguous cos, sin, exp, sqrt and the like to MKL, which chooses its kernels at a function's first
call. Where two threads make that call at once, one of them may run a kernel of lower accuracy: cos is then wrong by
1.5e-4 over a part of the tensor, once, in a few processes of a hundred. Rotary tables are made by such a first call.
pytorch issue 188792, gone from MKL 2025.0 on, while torch 2.13.0 brings 2024.2.
"""

from __future__ import annotations

from functools import cache

import torch

# All that torch gives to MKL's vector math or may (aten/src/ATen/cpu/vml.h). 0.5 lies within the domain of each.
FUNCTIONS = (
    "acos asin atan ceil cos cosh erf erfc erfinv exp expm1 floor lgamma log log10 log1p log2 round rsqrt sin sinh sqrt"
    " tan tanh trunc"
)


@cache
def settle() -> None:
    """Call each function once, in this thread alone: on one element, which torch never shares out. Once a process."""
    for dtype in (torch.float32, torch.float64):
        one = torch.full((1,), 0.5, dtype=dtype)
        for name in FUNCTIONS.split():
            getattr(torch, name)(one)
