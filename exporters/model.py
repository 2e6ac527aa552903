"""The Hugging Face side: module classes of a checkpoint, built one layer at a time.

The whole model exists on the meta device only. A layer is built on the CPU by its own class (not `to_empty` from
meta, which hands out uninitialised buffers) and takes its weights straight from the checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from exporters import spec as specs
from exporters.architecture import Architecture, find
from exporters.checkpoint import Checkpoint
from patches.attention import fuse_linears
from patches.patch import Patch, applied


class Decoder:
    """`devices`: how many the graphs are for; it decides between the architecture's patches (see Architecture)."""

    def __init__(self, model_dir: Path, devices: int = 1) -> None:
        self.model_dir = model_dir
        self.spec = specs.read(model_dir)
        self.architecture: Architecture = find(self.spec.model_type)
        self.fusions = self.architecture.fusions if devices == 1 else ()
        self._patches = self.architecture.patches if devices == 1 else self.architecture.split_patches
        self.config: Any = AutoConfig.from_pretrained(model_dir, local_files_only=True)
        with torch.device("meta"):
            self.meta: nn.Module = AutoModelForCausalLM.from_config(self.config, attn_implementation="eager").eval()
        # from_config works on a copy; layers must be built from the one that says "eager".
        self.config = self.meta.config

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Inside, layers run as the chip's graphs do."""
        module, _, name = self._patches.partition(":")
        patches: tuple[Patch, ...] = getattr(import_module(module), name) if module else ()
        with applied(patches):
            yield

    def layer(self, index: int, checkpoint: Checkpoint | None) -> nn.Module:
        """Decoder layer `index` in float32; on the meta device, without weights, where `checkpoint` is None."""
        cls: Any = type(self.meta.get_submodule(f"{self.architecture.layers}.{index}"))
        device = "meta" if checkpoint is None else "cpu"
        with torch.device(device), _no_random_weights():
            layer: nn.Module = cls(self.config, index).eval().float()
        if checkpoint is not None:
            prefix = f"{self.architecture.layers}.{index}."
            load(layer, prefix, checkpoint)
        for fusion in self.fusions:
            fuse_linears(layer, fusion.into, fusion.parts)
        return layer

    def rotary_tables(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, float32 [length, rotary size], as the model's own rotary module gives them."""
        cls: Any = type(self.meta.get_submodule(self.architecture.rotary))
        cos, sin = cls(self.config)(torch.zeros(1), torch.arange(length)[None])
        return cos[0], sin[0]

    def leaf(self, path: str, checkpoint: Checkpoint | None) -> nn.Module:
        """A module without buffers (embedding, final norm) at `path`, in float32, with weights if given."""
        module = copy.deepcopy(self.meta.get_submodule(path)).eval().float()
        if next(module.buffers(), None) is not None:
            raise RuntimeError(f"{path} has buffers, which the meta device does not fill")
        if checkpoint is not None:
            load(module, f"{path}.", checkpoint)
        return module

    def head_weight(self) -> str:
        """The tensor that projects to the vocabulary: the embedding table where the two are tied."""
        return f"{self.architecture.embed if self.spec.tied else self.architecture.head}.weight"


def load(module: nn.Module, prefix: str, checkpoint: Checkpoint) -> None:
    """Assign every parameter and persistent buffer of `module` from `checkpoint`, as float32."""
    state = {name: torch.from_numpy(checkpoint.read(prefix + name)) for name in module.state_dict()}
    module.load_state_dict(state, assign=True)


@contextmanager
def _no_random_weights() -> Iterator[None]:
    """nn.Linear fills itself with random numbers; here every weight is overwritten a moment later."""
    original = nn.Linear.reset_parameters
    nn.Linear.reset_parameters = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Linear.reset_parameters = original  # type: ignore[method-assign]
