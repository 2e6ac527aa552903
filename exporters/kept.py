"""What ONNX Runtime saw and gave, kept for the upper rungs of the parity ladder (runtime.verify)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporters.chain import Array, Call

if TYPE_CHECKING:
    from exporters.reference import Reference

KEPT_STEPS = 3  # decode steps kept for the chip: the first, a middle one, the last
KEPT_HEADS = 16  # positions kept for lm_head: it may give a token id only, which is right or wrong


class Kept:
    """The files in `folder`, which it makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def calls(self, net: str, calls: list[Call], valid: int = 1, stepwise: bool = False) -> None:
        """One npz a net: `in.<tensor>` and `out.<tensor>`, led by the step's number where there are several."""
        arrays: dict[str, Array] = {"valid": np.array(valid)}
        for number, call in enumerate(calls):
            lead = f"{number}." if stepwise else ""
            arrays |= {f"{lead}in.{name}": value for name, value in call.inputs.items()}
            arrays |= {f"{lead}out.{name}": value for name, value in call.outputs.items()}
        np.savez(self.folder / f"{net}.npz", allow_pickle=False, **arrays)

    def tokens(self, truth: Reference) -> None:
        """The prompt, and what Hugging Face makes of it."""
        names = ("prompt", "forced", "expected", "gap", "top")
        data = {name: getattr(truth, name) for name in names}
        (self.folder / "tokens.json").write_text(json.dumps(data) + "\n", encoding="utf-8")


def some(calls: list[Call], count: int = KEPT_STEPS) -> list[Call]:
    """`count` of them, spread from the first to the last."""
    if len(calls) <= count:
        return calls
    return [calls[i] for i in np.linspace(0, len(calls) - 1, count).round().astype(int)]
