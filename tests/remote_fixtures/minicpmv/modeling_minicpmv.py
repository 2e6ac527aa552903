"""Test fixture: a modeling file in the shape of MiniCPM-V 2.6's, written for these tests.

Same as in the published file: imports (torchvision among them, which it does not use), class names, module tree,
parameter names, the one dictionary that forward() takes, and how slices are padded, batched and put in the places that
`image_bound` names. Different: no chat, generate or streaming; nothing for training. config.json has one key more,
`image_token_id`, since the vocabulary ends before the published <unk>.
"""

import json  # noqa: F401
import math  # noqa: F401
from copy import deepcopy  # noqa: F401
from threading import Thread  # noqa: F401
from typing import List, Optional  # noqa: F401, UP035

import torch
import torchvision  # noqa: F401
from PIL import Image  # noqa: F401
from transformers import (  # noqa: F401
    AutoProcessor,
    Qwen2ForCausalLM,
    Qwen2PreTrainedModel,
    TextIteratorStreamer,
)

from .configuration_minicpm import MiniCPMVConfig
from .modeling_navit_siglip import SiglipVisionTransformer
from .resampler import Resampler


class MiniCPMVPreTrainedModel(Qwen2PreTrainedModel):
    config_class = MiniCPMVConfig


class MiniCPMV(MiniCPMVPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.llm = Qwen2ForCausalLM(config)
        self.vpm = self.init_vision_module()
        self.vision_dim = self.vpm.embed_dim
        self.embed_dim = self.llm.config.hidden_size
        self.resampler = self.init_resampler(self.embed_dim, self.vision_dim)
        self.processor = None
        self.terminators = ["<|im_end|>", "<|endoftext|>"]

    def init_vision_module(self):
        fast = self.config._attn_implementation == "flash_attention_2"
        self.config.vision_config._attn_implementation = "flash_attention_2" if fast else "eager"
        model = SiglipVisionTransformer(self.config.vision_config)
        if self.config.drop_vision_last_layer:
            model.encoder.layers = model.encoder.layers[:-1]
        model.embed_dim = model.embeddings.embed_dim
        model.patch_size = model.embeddings.patch_size
        return model

    def init_resampler(self, embed_dim, vision_dim):
        return Resampler(
            num_queries=self.config.query_num,
            embed_dim=embed_dim,
            num_heads=embed_dim // 128,
            kv_dim=vision_dim,
            adaptive=True,
        )

    def get_input_embeddings(self):
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.llm.embed_tokens = value

    def get_output_embeddings(self):
        return self.llm.lm_head

    def set_output_embeddings(self, new_embeddings):
        self.llm.lm_head = new_embeddings

    def get_vllm_embedding(self, data):
        dtype, device = self.llm.model.embed_tokens.weight.dtype, self.llm.model.embed_tokens.weight.device
        counts = [len(slices) for slices in data["pixel_values"]]
        pixels = [one.flatten(end_dim=1).permute(1, 0) for slices in data["pixel_values"] for one in slices]
        found = [[] for _ in counts]
        if pixels:
            sizes = torch.vstack([s for s in data["tgt_sizes"] if isinstance(s, torch.Tensor)]).type(torch.int32)
            most = torch.max(sizes[:, 0] * sizes[:, 1])
            pixels = torch.nn.utils.rnn.pad_sequence(pixels, batch_first=True, padding_value=0.0)
            batch, length, _ = pixels.shape
            pixels = pixels.permute(0, 2, 1).reshape(batch, 3, -1, length).type(dtype)
            seen = torch.zeros((batch, 1, most), dtype=torch.bool, device=device)
            for row in range(batch):
                seen[row, 0, : sizes[row][0] * sizes[row][1]] = True
            step = self.config.vision_batch_size
            parts = [
                self.vpm(
                    pixels[at : at + step], patch_attention_mask=seen[at : at + step], tgt_sizes=sizes[at : at + step]
                ).last_hidden_state
                for at in range(0, batch, step)
            ]
            features = self.resampler(torch.cat(parts, dim=0), sizes)
            found = list(torch.split(features, counts))

        embedded = self.llm.model.embed_tokens(data["input_ids"])
        for row in range(len(data["input_ids"])):
            bounds = data["image_bound"][row]
            if len(found[row]) > 0 and len(bounds) > 0:
                places = torch.stack([torch.arange(b[0], b[1], dtype=torch.long) for b in bounds]).to(device)
                index = places.view(-1, 1).repeat(1, embedded.shape[-1])
                embedded[row].scatter_(0, index, found[row].type(dtype).view(-1, embedded.shape[-1]))
        return embedded, found

    def forward(self, data, **kwargs):
        embedded, _ = self.get_vllm_embedding(data)
        position_ids = data["position_ids"].long()
        return self.llm(input_ids=None, position_ids=position_ids, inputs_embeds=embedded, **kwargs)
