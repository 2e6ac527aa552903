"""Vision towers that take one picture of one size: pixel_values [1, 3, h, w] to features [rows, H]. Hugging Face's own
blocks and projectors; what lies before and between them is written so that nothing but matmuls is left of positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from patches.attention import Attention, Source, Step


@dataclass(frozen=True)
class Heads:
    """patches.attention.Sizes, of attention among equal heads."""

    heads: int
    head_dim: int
    attention_scale: float
    attention_softcap: float | None = None

    @property
    def kv_heads(self) -> int:
        return self.heads


class PictureAttention(Attention):
    """Every patch sees every other. Some towers hand their attention nothing beside the states."""

    def __init__(self, old: Any, sources: Mapping[str, Source]) -> None:
        super().__init__(old, sources)
        self.sizes = Heads(old.num_heads, old.head_dim, old.scale)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        return super().forward(hidden_states, Step(self.sizes))


class PlainPictureAttention(PictureAttention):
    """For blocks that take one thing from their attention."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        return super().forward(hidden_states)[0]


class _Tower(nn.Module):
    """`model`: Hugging Face's, on the meta device, with its attention swapped. Its modules keep their names, as far as
    they are needed; their buffers number positions, which are all there, in order."""

    def __init__(self, model: Any, sizes: Any, places: int) -> None:
        super().__init__()
        for name in self.parts:
            self.add_module(name, model.get_submodule(name))
        self.blocks = sizes.blocks
        for module in self.modules():
            module._buffers.clear()

    def encoded(self, states: torch.Tensor, layers: Any) -> torch.Tensor:
        for layer in layers:
            out = layer(states, attention_mask=None) if self.masked else layer(states)
            states = out[0] if isinstance(out, tuple) else out
        return states

    masked = True  # whether a layer takes a mask
    parts: tuple[str, ...] = ("vision_tower", "multi_modal_projector")
    vision_tower: Any
    multi_modal_projector: Any


def _patches(convolution: Any, pixels: torch.Tensor) -> torch.Tensor:
    """[1, 3, h, w] to [1, patches, hidden]."""
    # Without padding, said in words: by numbers, tracing on the meta device fails.
    stride = convolution.stride
    found = nn.functional.conv2d(pixels, convolution.weight, convolution.bias, stride, padding="valid")
    return found.flatten(2).transpose(1, 2)


class SiglipTower(_Tower):
    def __init__(self, model: Any, sizes: Any, places: int) -> None:
        super().__init__(model, sizes, places)
        tower = getattr(self, self.parts[0])
        if hasattr(tower, "head"):  # pools all patches into one, for other uses
            del tower.head

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tower, projector = (getattr(self, name) for name in self.parts)
        states = _patches(tower.embeddings.patch_embedding, pixel_values) + tower.embeddings.position_embedding.weight
        states = tower.post_layernorm(self.encoded(states, tower.encoder.layers))
        rows: torch.Tensor = projector(states)
        return rows[0]


class JanusTower(SiglipTower):
    parts = ("vision_model", "aligner")


class ClipTower(_Tower):
    def __init__(self, model: Any, sizes: Any, places: int) -> None:
        super().__init__(model, sizes, places)
        del self.vision_tower.post_layernorm  # these lie behind the layer whose states are taken
        del self.vision_tower.encoder.layers[self.blocks :]
        embeddings = self.vision_tower.embeddings
        embeddings.class_embedding = nn.Parameter(embeddings.class_embedding.detach()[None, None])

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tower, embeddings = self.vision_tower, self.vision_tower.embeddings
        patches = _patches(embeddings.patch_embedding, pixel_values)
        states = torch.cat([embeddings.class_embedding, patches], dim=1)
        states = tower.pre_layrnorm(states + embeddings.position_embedding.weight)
        states = self.encoded(states, tower.encoder.layers)[:, 1:]
        rows: torch.Tensor = self.multi_modal_projector(states)
        return rows[0]


class InternTower(_Tower):
    masked = False

    def __init__(self, model: Any, sizes: Any, places: int) -> None:
        super().__init__(model, sizes, places)
        self.merge = sizes.merge

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tower, embeddings = self.vision_tower, self.vision_tower.embeddings
        patches = _patches(embeddings.patch_embeddings.projection, pixel_values)
        states = torch.cat([embeddings.cls_token, patches], dim=1) + embeddings.position_embeddings
        states = tower.layernorm(self.encoded(states, tower.encoder.layer))[:, 1:]
        rows: torch.Tensor = self.multi_modal_projector(self.shuffled(states))
        return rows[0]

    def shuffled(self, states: torch.Tensor) -> torch.Tensor:
        """[1, patches, hidden] to [1, patches / m², m² * hidden], InternVL's pixel shuffle: of a square of m x m
        patches the channels of those in the first row, then in the next."""
        m, high = self.merge, math.isqrt(states.shape[1])
        squares = states.reshape(high // m, m, high // m, m, states.shape[2])
        return squares.permute(0, 2, 1, 3, 4).reshape(1, (high // m) ** 2, m * m * states.shape[2])


class InternChatTower(InternTower):
    """The same by the names of the code that comes with checkpoints."""

    parts = ("vision_model", "mlp1")
    vision_model: Any
    mlp1: Any

    def __init__(self, model: Any, sizes: Any, places: int) -> None:
        super().__init__(model, sizes, places)
        del self.vision_model.encoder.layers[self.blocks :]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tower, embeddings = self.vision_model, self.vision_model.embeddings
        patches = _patches(embeddings.patch_embedding, pixel_values)
        states = torch.cat([embeddings.class_embedding, patches], dim=1) + embeddings.position_embedding
        states = self.encoded(states, tower.encoder.layers)[:, 1:]
        rows: torch.Tensor = self.mlp1(self.shuffled(states))
        return rows[0]
