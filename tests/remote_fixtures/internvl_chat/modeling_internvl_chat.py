"""Test fixture: a modeling file in the shape of InternVL2's, written for these tests.

Same as in the published file: imports, class names, module tree, parameter names, forward signatures, how the decoder
is chosen, the choice of the tower's layer, the pixel shuffle in both versions, and how features take the places of the
prompt's <IMG_CONTEXT> tokens, whose id chat() alone sets.
Different: the decoders are InternLM2 and Qwen2; no chat, generate, losses or LoRA. The files for InternViT and for
InternLM2 that lie beside it are real ones.
"""

import torch.utils.checkpoint
from torch import nn
from transformers import GenerationConfig, Qwen2ForCausalLM  # noqa: F401
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .configuration_internvl_chat import InternVLChatConfig
from .conversation import get_conv_template
from .modeling_intern_vit import InternVisionModel, has_flash_attn
from .modeling_internlm2 import InternLM2ForCausalLM

logger = logging.get_logger(__name__)


class InternVLChatModel(PreTrainedModel):
    config_class = InternVLChatConfig
    main_input_name = "pixel_values"
    base_model_prefix = "language_model"
    _supports_flash_attn_2 = True
    _no_split_modules = ["InternVisionModel", "InternLM2DecoderLayer", "Qwen2DecoderLayer"]  # noqa: RUF012

    def __init__(self, config: InternVLChatConfig, vision_model=None, language_model=None, use_flash_attn=True):
        super().__init__(config)
        size = config.force_image_size or config.vision_config.image_size
        self.patch_size = config.vision_config.patch_size
        self.select_layer = config.select_layer
        self.template = config.template
        self.downsample_ratio = config.downsample_ratio
        self.ps_version = config.ps_version
        self.num_image_token = int((size // self.patch_size) ** 2 * self.downsample_ratio**2)
        fast = bool(use_flash_attn and has_flash_attn)
        config.vision_config.use_flash_attn = fast
        config.llm_config.attn_implementation = "flash_attention_2" if fast else "eager"

        self.vision_model = vision_model if vision_model is not None else InternVisionModel(config.vision_config)
        if language_model is not None:
            self.language_model = language_model
        elif config.llm_config.architectures[0] == "InternLM2ForCausalLM":
            self.language_model = InternLM2ForCausalLM(config.llm_config)
        elif config.llm_config.architectures[0] == "Qwen2ForCausalLM":
            self.language_model = Qwen2ForCausalLM(config.llm_config)
        else:
            raise NotImplementedError(f"{config.llm_config.architectures[0]} is not implemented.")

        wide = config.vision_config.hidden_size * int(1 / self.downsample_ratio) ** 2
        hidden = config.llm_config.hidden_size
        self.mlp1 = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.img_context_token_id = None
        self.conv_template = get_conv_template(self.template)
        self.system_message = self.conv_template.system_message

    def forward(
        self,
        pixel_values: torch.FloatTensor,
        input_ids: torch.LongTensor = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        image_flags: torch.LongTensor | None = None,
        past_key_values: list[torch.FloatTensor] | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple | CausalLMOutputWithPast:
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        image_flags = image_flags.squeeze(-1)
        embedded = self.language_model.get_input_embeddings()(input_ids).clone()
        features = self.extract_feature(pixel_values)[image_flags == 1]

        batch, length, hidden = embedded.shape
        embedded = embedded.reshape(batch * length, hidden)
        places = input_ids.reshape(batch * length) == self.img_context_token_id
        embedded[places] = embedded[places] * 0.0 + features.reshape(-1, hidden)

        outputs = self.language_model(
            inputs_embeds=embedded.reshape(batch, length, hidden),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        if not return_dict:
            return (outputs.logits, *outputs[1:])
        return CausalLMOutputWithPast(
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def pixel_shuffle(self, x, scale_factor=0.5):
        n, w, h, c = x.size()
        x = x.view(n, w, int(h * scale_factor), int(c / scale_factor)).permute(0, 2, 1, 3).contiguous()
        x = x.view(n, int(h * scale_factor), int(w * scale_factor), int(c / (scale_factor * scale_factor)))
        return x if self.ps_version == "v1" else x.permute(0, 2, 1, 3).contiguous()

    def extract_feature(self, pixel_values):
        last = self.select_layer == -1
        found = self.vision_model(pixel_values=pixel_values, output_hidden_states=not last, return_dict=True)
        states = (found.last_hidden_state if last else found.hidden_states[self.select_layer])[:, 1:, :]
        side = int(states.shape[1] ** 0.5)
        states = states.reshape(states.shape[0], side, side, -1)
        states = self.pixel_shuffle(states, scale_factor=self.downsample_ratio)
        return self.mlp1(states.reshape(states.shape[0], -1, states.shape[-1]))
