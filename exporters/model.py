"""The Hugging Face side: module classes of a checkpoint, built one layer at a time.

The whole model exists without weights only. A layer is built by its own class, with the buffers its constructor
computes (not `to_empty` from the meta device, which hands out uninitialised ones), and takes its weights straight from
the checkpoint.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig

from exporters import lora, remote
from exporters import spec as specs
from exporters.architecture import Architecture, Swap, find
from exporters.bind import Weight, assemble, weight_of
from exporters.checkpoint import Checkpoint
from exporters.modules import Block
from exporters.trust import check_allowed
from exporters.vision import Size
from patches import compat, rotary, vml
from patches.lora import LowRank
from patches.positions import Alibi, Window
from patches.residual import keep_apart


class Decoder:
    """`devices`: how many the graphs are for; it decides between forms of attention (exporters.parts). `trust`:
    whether code that comes with the checkpoint may run; UserError where it would have to. `adapter`: the folder of a
    LoRA adapter that is merged into the weights. `rank`: of adapters that the nets take at run time; 0: none."""

    def __init__(
        self, model_dir: Path, devices: int = 1, trust: bool = False, adapter: Path | None = None, rank: int = 0
    ) -> None:
        vml.settle()
        self.model_dir, self.adapter = model_dir, adapter
        self.devices = devices
        self.spec = specs.read(model_dir)
        self.lora = lora.adapted(self.spec, rank)
        self._low_rank = [place.at for place in lora.places(self.spec)] if rank else []
        self.architecture: Architecture = find(self.spec.model_type)
        made = _of_checkpoint if self.architecture.remote else _of_transformers
        self.meta, self.config = made(model_dir, self.architecture, trust)

    def layer(self, index: int, checkpoint: Checkpoint | None) -> nn.Module:
        """Decoder layer `index` as the chip's graphs run it; its parameters in float32, or on the meta device,
        without values, where `checkpoint` is None."""
        cls: Any = type(self.meta.get_submodule(f"{self.architecture.layers}.{index}"))
        places = [p for p in inspect.signature(cls).parameters.values() if p.default is p.empty or "idx" in p.name]
        with compat.building(), init_empty_weights(include_buffers=False), _no_random_weights():
            layer: nn.Module = cls(*(self.config, index)[: max(len(places), 1)]).eval().float()
        for swap in self._swaps(layer):
            old = layer.get_submodule(swap.at)
            layer.set_submodule(swap.at, imported(swap.to)(old, swap.sources(self.spec, self.devices)))
        for path in self.architecture.split if self.devices > 1 else ():
            keep_apart(layer.get_submodule(path))
        for path in self._low_rank:
            linear: Any = layer.get_submodule(path)
            layer.set_submodule(path, LowRank(linear, doubled=path.endswith(".out")))
        if checkpoint is not None:
            fill(layer, self.weights(layer), checkpoint, f"{self.architecture.layers}.{index}.")
        return layer.eval()

    def _swaps(self, layer: nn.Module) -> list[Swap]:
        """Those of the architecture that this layer has a place for."""
        paths = {name for name, _ in layer.named_modules()}
        return [swap for swap in self.architecture.swaps if (swap.when or swap.at) in paths]

    def weights(self, layer: nn.Module) -> dict[str, Weight]:
        """Parameter of `layer` (as `layer()` gives it) to the tensors of the checkpoint that make it."""
        modules, sources = dict(layer.named_modules()), {}
        for swap in self.architecture.swaps:
            if isinstance(modules.get(swap.at), imported(swap.to)):
                for path, source in swap.sources(self.spec, self.devices).items():
                    parts = tuple(f"{swap.at}.{part}" for part in source.parts)
                    sources[f"{swap.at}.{path}"] = replace(source, parts=parts)
        experts = self.spec.experts
        return {name: weight_of(name, v.shape, sources, experts) for name, v in layer.state_dict().items()}

    def rotary_tables(self, length: int, layer: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """cos and sin, float32 [rows, rotary size], as the model's own rotary module gives them; None without one.

        Rows are positions, in one block of `length` or, where rope changes with length, several (rotary.stacked).
        """
        if not self.architecture.rotary or self.spec.alibi:
            return None
        one = partial(self._tables, self._rotary(), self.spec.layer_types[layer])
        stacked = rotary.stacked if self.spec.rope_restarts else rotary.stacked_whole
        return stacked(one, length, self.spec.switches(length))

    @property
    def _tables(self) -> Any:
        return imported(self.architecture.tables or "patches.rotary:plain")

    def _rotary(self) -> Any:
        """The model's own rotary module, with buffers that hold values."""
        module: Any = self.meta.get_submodule(self.architecture.rotary)
        return module if self.architecture.remote else type(module)(self.config)

    def stretch(self, length: int) -> torch.Tensor | None:
        """Factors on q [rows, 1], by the same rows as the rotary tables; None where none differs from 1."""
        trained = self.spec.logn_from
        if trained is None or trained >= length:
            return None
        return rotary.logn(trained, length).repeat(len(self.spec.switches(length)) + 1, 1)

    def mask(self, length: int, layer: int) -> nn.Module | None:
        """What changes the caller's mask in this layer: a window shorter than the built length, or ALiBi."""
        window = self.spec.windows[layer]
        if self.spec.alibi:
            return Alibi(length, self.spec.heads)
        return Window(length, window) if window and window < length else None

    def block(self, layer: nn.Module, index: int, length: int, checkpoint: Checkpoint | None) -> Block:
        """The layer as a net for `length` positions."""
        positions = None
        if self.architecture.positions and index == 0:
            weight = self.positions_weight(length)
            positions = torch.empty(weight.shape, device="meta")
            if checkpoint is not None:
                positions = torch.from_numpy(assemble(checkpoint, weight, ""))
        tables, mask = self.rotary_tables(length, index), self.mask(length, index)
        columns = rotary.columns_by_axis(self._tables, self._rotary()) if self.spec.axes > 1 else None
        return Block(layer, self.spec, length, tables, mask, positions, self.stretch(length), columns, self._low_rank)

    def tower(self, size: Size, checkpoint: Checkpoint | None) -> nn.Module:
        """The vision tower as a net for pictures of up to the pixels of `size`, height and width; in float32."""
        vision, spec = self.architecture.vision, self.spec.vision
        assert vision is not None
        assert spec is not None
        tower = copy.deepcopy(self.meta.get_submodule(vision.root)).float()
        for block in tower.get_submodule(vision.blocks).children():
            for swap in vision.swaps:
                old = block.get_submodule(swap.at)
                block.set_submodule(swap.at, imported(swap.to)(old, swap.sources(spec, self.devices)))
        module: nn.Module = imported(vision.module)(tower, spec, spec.patches(size) // spec.merge)
        if checkpoint is not None:
            fill(module, self.tower_weights(module), checkpoint, vision.prefix)
        return module.eval()

    def tower_weights(self, module: nn.Module) -> dict[str, Weight]:
        """Parameter of `module` (as `tower()` gives it) to the tensors of the checkpoint that make it."""
        vision, spec = self.architecture.vision, self.spec.vision
        assert vision is not None
        assert spec is not None
        old = self.meta.get_submodule(vision.root).state_dict()
        sources = {}
        for number in range(spec.blocks):
            for swap in vision.swaps:
                at = f"{vision.blocks}.{number}.{swap.at}"
                for path, source in swap.sources(spec, self.devices).items():
                    sources[f"{at}.{path}"] = replace(source, parts=tuple(f"{at}.{part}" for part in source.parts))
        found = {name: weight_of(name, v.shape, sources, 0) for name, v in module.state_dict().items()}
        found |= {
            name: Weight(name, (f"{{layer}}{part}",), found[name].shape, rows)
            for name, (part, rows) in vision.taken(spec).items()
        }
        return {name: replace(w, reshaped=name in old and old[name].shape != w.shape) for name, w in found.items()}

    def positions_weight(self, length: int) -> Weight:
        """The learned positions [length, H] that the first layer adds."""
        name = f"{self.architecture.positions}.weight"
        return Weight("positions", (name,), (length, self.spec.hidden), ((0, length, 1),))

    def leaf(self, path: str, checkpoint: Checkpoint | None) -> nn.Module:
        """A module without buffers (the final norm) at `path`, in float32, with weights if given."""
        module = copy.deepcopy(self.meta.get_submodule(path)).eval().float()
        if next(module.buffers(), None) is not None:
            raise RuntimeError(f"{path} has buffers, which the meta device does not fill")
        if checkpoint is not None:
            weights = {n: Weight(n, (f"{path}.{n}",), tuple(v.shape)) for n, v in module.state_dict().items()}
            fill(module, weights, checkpoint, "")
        return module

    def head_weight(self) -> Weight:
        """The tensor that projects to the vocabulary, [V, H]: the embedding table where the two are tied."""
        path = self.architecture.embed if self.spec.tied else self.architecture.head
        shape = (self.spec.vocab, self.spec.hidden)
        normalised = type(self.meta.get_submodule(path)).__name__ == self.architecture.normalised_head
        return Weight("head.weight", (f"{path}.weight",), shape, normalised=normalised)


def _of_transformers(model_dir: Path, architecture: Architecture, trust: bool) -> tuple[nn.Module, Any]:
    config: Any = AutoConfig.from_pretrained(model_dir, local_files_only=True)
    with torch.device("meta"):
        model: Any = getattr(transformers, architecture.auto).from_config(config, attn_implementation="eager").eval()
    # from_config works on a copy; layers must be built from the one that says "eager".
    return model, model.config.get_text_config()


def _of_checkpoint(model_dir: Path, architecture: Architecture, trust: bool) -> tuple[nn.Module, Any]:
    check_allowed(model_dir, specs.read_config(model_dir), trust)
    config, model_class = remote.load(model_dir)
    model = remote.empty(model_class, config)
    decoder = model.get_submodule(architecture.layers.rpartition(".")[0])
    # A model that sees holds its decoder's configuration inside its own.
    return model, getattr(decoder, "config", config)


def imported(name: str) -> Any:
    """What "module:attribute" names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def fill(module: nn.Module, weights: dict[str, Weight], checkpoint: Checkpoint, prefix: str) -> None:
    """Assign every parameter and persistent buffer of `module` from `checkpoint`, as float32."""
    state = {name: torch.from_numpy(assemble(checkpoint, weight, prefix)) for name, weight in weights.items()}
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
