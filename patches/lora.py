"""Linear modules that a LoRA adapter changes at run time: its two matrices are inputs of the net."""

from __future__ import annotations

import torch
from torch import nn


class LowRank(nn.Module):
    """`linear`, and (x A^T) B beside it, with `a` [R, inputs] and `b` [R, outputs] as the caller sets them before each
    run. Its parameters have the names of the old one's.

    `doubled`: x is doubled before and the sum halved after, which changes no bit. Behind attention that keeps the two
    uses of x apart from it: the compiler fuses attention only where its output is used once.
    """

    a: torch.Tensor
    b: torch.Tensor

    def __init__(self, linear: nn.Linear, doubled: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.doubled = linear.weight, linear.bias, doubled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.doubled:
            return nn.functional.linear(x, self.weight, self.bias) + (x @ self.a.t()) @ self.b
        x = x * 2.0
        y = (nn.functional.linear(x, self.weight) + (x @ self.a.t()) @ self.b) * 0.5
        return y if self.bias is None else y + self.bias
