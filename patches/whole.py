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
    @property
    def patch(self) -> int: ...
    @property
    def queries(self) -> int: ...


class Whole(nn.Module):
    """The model's own code computes a prompt with pictures; what follows, and prompts without, is its decoder's."""

    def __init__(self, model: Any, sizes: Sees) -> None:
        super().__init__()
        self.model, self.sizes = model, sizes
        self.config = SimpleNamespace(image_token_id=sizes.image_token, video_token_id=-1)

    def get_submodule(self, target: str) -> nn.Module:
        found: nn.Module = self.model.get_submodule(target)
        return found

    @property
    def base_model(self) -> Whole:
        return self


class InternChat(Whole):
    def __init__(self, model: Any, sizes: Sees) -> None:
        super().__init__(model, sizes)
        model.img_context_token_id = sizes.image_token  # its chat() asks the tokenizer

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


class MiniCpm(Whole):
    """MiniCPM-V's own code takes a dictionary, with the slices as its processor lays them: [3, patch, patches * patch]
    each, and where the prompt holds their rows."""

    def get_image_features(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, return_dict: bool) -> Any:
        ids = torch.zeros(1, 0, dtype=torch.long)
        _, found = self.model.get_vllm_embedding(self._data(ids, pixel_values, image_grid_thw))
        return SimpleNamespace(pooler_output=found[0])

    def _data(self, ids: torch.Tensor, pixels: torch.Tensor, grids: torch.Tensor) -> dict[str, Any]:
        patch, rows = self.sizes.patch, self.sizes.queries
        parts = pixels.split([int(grid.prod()) for grid in grids])
        slices = [part.view(-1, 3, patch, patch).permute(1, 2, 0, 3).reshape(3, patch, -1) for part in parts]
        begins = torch.where(ids[0] == self.sizes.image_token)[0][::rows]
        return {
            "input_ids": ids,
            "pixel_values": [slices],
            "tgt_sizes": [grids[:, 1:]],
            "image_bound": [torch.stack([begins, begins + rows], dim=1)],
            "position_ids": torch.arange(ids.shape[1])[None],
        }

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        **cache: Any,
    ) -> Any:
        """`pixel_values` [patches, 3 * patch * patch], `image_grid_thw` [slices, 3]."""
        if pixel_values is None or image_grid_thw is None:
            return self.model.llm(input_ids=input_ids, position_ids=position_ids, **cache)
        return self.model(self._data(input_ids, pixel_values, image_grid_thw), **cache)
