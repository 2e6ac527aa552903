"""References for nets of llm_convert, which puts the final norm behind the last layer; ours begin lm_head with it.

Between the two nets lie normed states then; all other tensors are the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from contract import graphs
from exporters.chain import STATES
from exporters.checkpoint import Checkpoint
from exporters.model import Decoder


def apply(decoder: Decoder, reference: Path) -> None:
    """Norm the last layer's states in the files that the parity step keeps (exporters.parity), in their place."""
    norm = decoder.leaf(decoder.architecture.norm, Checkpoint(decoder.model_dir, decoder.adapter))
    last = decoder.spec.layers - 1
    for net, tensor in (
        (graphs.block_name(last), f"out.{STATES}"),
        (graphs.block_cache_name(last), f"out.{STATES}"),
        (graphs.LM_HEAD, "in.hidden_states"),
    ):
        path = reference / f"{net}.npz"
        with np.load(path) as held:
            arrays = {name: held[name] for name in held.files}
        for name in [name for name in arrays if name.endswith(tensor)]:
            with torch.no_grad():
                arrays[name] = norm(torch.from_numpy(arrays[name])).numpy()
        np.savez(path, allow_pickle=False, **arrays)
