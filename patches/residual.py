"""Linear modules in front of a residual sum, as the compiler splits them over several devices."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def keep_apart(linear: Any) -> None:
    """Give `linear` a bias of zeros where it has none.

    Over one position the compiler (1.30.2) joins a bare one with the sum behind it. Split over devices, attention then
    adds the residual once a device; and the weights of an MLP come in another order than in the prefill net, so that
    the two do not share them.
    """
    if linear.bias is not None:
        return
    linear.register_buffer("no_bias", torch.zeros(linear.weight.shape[0]), persistent=False)
    linear.register_forward_hook(_add)


def _add(linear: nn.Module, _: Any, out: torch.Tensor) -> torch.Tensor:
    return out + linear.no_bias  # type: ignore[operator]
