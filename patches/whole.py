"""Whole models whose code comes with the checkpoint, called as transformers' own models that see are called."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import nn


class Sees(Protocol):
    """What is to be known of the tower (exporters.vision.VisionSpec has it)."""

    @property
    def image_token(self) -> int: ...


class InternChat(nn.Module):
    """InternVL's own code computes a prompt with pictures; what follows, and prompts without, is its decoder's."""

    def __init__(self, model: Any, sizes: Sees) -> None:
        super().__init__()
        self.model = model
        model.img_context_token_id = sizes.image_token  # its chat() asks the tokenizer
        self.config = SimpleNamespace(image_token_id=sizes.image_token)

    def get_submodule(self, target: str) -> nn.Module:
        found: nn.Module = self.model.get_submodule(target)
        return found

    @property
    def base_model(self) -> InternChat:
        return self

    def get_image_features(self, pixel_values: torch.Tensor, return_dict: bool = True) -> Any:
        return SimpleNamespace(pooler_output=self.model.extract_feature(pixel_values))

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        **cache: Any,
    ) -> Any:
        """`pixel_values` [pictures, 3, h, w], of which the prompt holds all places."""
        if pixel_values is None:
            return self.model.language_model(input_ids=input_ids, position_ids=position_ids, **cache)
        flags = torch.ones(len(pixel_values), 1, dtype=torch.long)
        return self.model(pixel_values, input_ids, position_ids=position_ids, image_flags=flags, **cache)
