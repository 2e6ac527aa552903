"""Test fixture: a modeling file in the shape of GLM-4-9B-Chat's (the original, not -hf), written for these tests.

Same as in the published file: imports and calls at import time, class names, module tree, parameter names, forward
signatures, skip_init, config.max_length and config.torch_dtype read at construction, interleaved half rope under
torch.jit.script with rope_ratio on the base, query groups, batch-first hidden states, and the cache: each layer gives
one stacked tensor in prefill and a pair in decoding, the model a tuple of pairs [batch, groups, positions, head_dim].
Different: eager attention only, no padding masks, no training, prefix tuning, classification or chat.
"""

import math
import sys
from typing import List, Optional, Tuple  # noqa: F401, UP035

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn
from torch.nn import LayerNorm
from torch.nn.utils import skip_init
from transformers.generation.logits_process import LogitsProcessor
from transformers.generation.utils import (  # noqa: F401
    GenerationConfig,
    LogitsProcessorList,
    ModelOutput,
    StoppingCriteriaList,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import is_torch_npu_available, logging  # noqa: F401

from .configuration_chatglm import ChatGLMConfig

if sys.platform != "darwin":
    torch._C._jit_set_profiling_mode(False)
    torch._C._jit_set_profiling_executor(False)
    torch._C._jit_override_can_fuse_on_cpu(True)
    torch._C._jit_override_can_fuse_on_gpu(True)

logger = logging.get_logger(__name__)


def default_init(cls, *args, **kwargs):
    return cls(*args, **kwargs)


class InvalidScoreLogitsProcessor(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


class RotaryEmbedding(nn.Module):
    def __init__(self, dim, rope_ratio=1, original_impl=False, device=None, dtype=None):
        super().__init__()
        inv_freq = 1.0 / (10000 ** (torch.arange(0, dim, 2, device=device).to(dtype=dtype) / dim))
        self.register_buffer("inv_freq", inv_freq)
        self.dim = dim
        self.original_impl = original_impl
        self.rope_ratio = rope_ratio

    def forward_impl(self, seq_len: int, n_elem: int, dtype: torch.dtype, device: torch.device, base: int = 10000):
        base = base * self.rope_ratio
        theta = 1.0 / (base ** (torch.arange(0, n_elem, 2, dtype=torch.float, device=device) / n_elem))
        angles = torch.outer(torch.arange(seq_len, dtype=torch.float, device=device), theta).float()
        cache = torch.stack([torch.cos(angles), torch.sin(angles)], dim=-1)
        if dtype in (torch.float16, torch.bfloat16, torch.int8):
            cache = cache.bfloat16() if dtype == torch.bfloat16 else cache.half()
        return cache

    def forward(self, max_seq_len, offset=0):
        return self.forward_impl(max_seq_len, self.dim, dtype=self.inv_freq.dtype, device=self.inv_freq.device)


@torch.jit.script
def apply_rotary_pos_emb(x: torch.Tensor, rope_cache: torch.Tensor) -> torch.Tensor:
    # x: [b, np, sq, hn]; rope_cache: [b, sq, rot_dim / 2, 2]
    b, np, sq = x.size(0), x.size(1), x.size(2)
    rot_dim = rope_cache.shape[-2] * 2
    rotated, kept = x[..., :rot_dim], x[..., rot_dim:]
    pairs = rotated.reshape(b, np, sq, rot_dim // 2, 2)
    cos_sin = rope_cache[:, :sq].view(-1, 1, sq, pairs.size(3), 2)
    even = pairs[..., 0] * cos_sin[..., 0] - pairs[..., 1] * cos_sin[..., 1]
    odd = pairs[..., 1] * cos_sin[..., 0] + pairs[..., 0] * cos_sin[..., 1]
    return torch.cat((torch.stack([even, odd], -1).flatten(3), kept), dim=-1)


class RMSNorm(torch.nn.Module):
    def __init__(self, normalized_shape, eps=1e-5, device=None, dtype=None, **kwargs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(normalized_shape, device=device, dtype=dtype))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor):
        input_dtype = hidden_states.dtype
        variance = hidden_states.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return (self.weight * (hidden_states * torch.rsqrt(variance + self.eps))).to(input_dtype)


class CoreAttention(torch.nn.Module):
    def __init__(self, config: ChatGLMConfig, layer_number):
        super().__init__()
        self.config = config
        self.layer_number = max(1, layer_number)
        self.hidden_size_per_partition = config.kv_channels * config.num_attention_heads
        self.coeff = self.layer_number if config.apply_query_key_layer_scaling else None
        self.norm_factor = math.sqrt(config.kv_channels) * (self.coeff or 1)
        self.attention_dropout = torch.nn.Dropout(config.attention_dropout)

    def forward(self, query_layer, key_layer, value_layer, attention_mask):
        scores = torch.matmul(query_layer, key_layer.transpose(-1, -2)) / self.norm_factor
        scores = scores.float() * (self.coeff or 1)
        if attention_mask is None and scores.shape[2] == scores.shape[3]:
            attention_mask = ~torch.ones_like(scores, dtype=torch.bool).tril()
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask, float("-inf"))
        context = torch.matmul(F.softmax(scores, dim=-1).type_as(value_layer), value_layer)
        return context.transpose(1, 2).reshape(context.shape[0], context.shape[2], self.hidden_size_per_partition)


CORE_ATTENTION_CLASSES = {"eager": CoreAttention}


class SelfAttention(torch.nn.Module):
    def __init__(self, config: ChatGLMConfig, layer_number, device=None):
        super().__init__()
        self.layer_number = max(1, layer_number)
        self.projection_size = config.kv_channels * config.num_attention_heads
        self.hidden_size_per_attention_head = self.projection_size // config.num_attention_heads
        self.num_attention_heads_per_partition = config.num_attention_heads
        self.multi_query_attention = config.multi_query_attention
        self.num_multi_query_groups_per_partition = config.multi_query_group_num
        self.qkv_hidden_size = (
            self.projection_size + 2 * self.hidden_size_per_attention_head * config.multi_query_group_num
        )
        self.query_key_value = nn.Linear(
            config.hidden_size,
            self.qkv_hidden_size,
            bias=config.add_bias_linear or config.add_qkv_bias,
            device=device,
            **_config_to_kwargs(config),
        )
        self.core_attention = CORE_ATTENTION_CLASSES[config._attn_implementation](config, self.layer_number)
        self.dense = nn.Linear(
            self.projection_size,
            config.hidden_size,
            bias=config.add_bias_linear,
            device=device,
            **_config_to_kwargs(config),
        )

    def forward(self, hidden_states, attention_mask, rotary_pos_emb, kv_cache=None, use_cache=True):
        # hidden_states: [b, sq, h]
        heads, groups = self.num_attention_heads_per_partition, self.num_multi_query_groups_per_partition
        size = self.hidden_size_per_attention_head
        mixed = self.query_key_value(hidden_states).split([heads * size, groups * size, groups * size], dim=-1)
        query, key, value = (x.view((*x.size()[:-1], -1, size)).transpose(1, 2) for x in mixed)
        if rotary_pos_emb is not None:
            query = apply_rotary_pos_emb(query, rotary_pos_emb)
            key = apply_rotary_pos_emb(key, rotary_pos_emb)
        if kv_cache is not None:
            cache_k, cache_v = kv_cache
            key = torch.cat((cache_k, key), dim=2)
            value = torch.cat((cache_v, value), dim=2)
        if not use_cache:
            kv_cache = None
        elif kv_cache is None:
            kv_cache = torch.cat((key.unsqueeze(0).unsqueeze(0), value.unsqueeze(0).unsqueeze(0)), dim=1)
        else:
            kv_cache = (key, value)
        key, value = (
            x.unsqueeze(2).expand(-1, -1, heads // groups, -1, -1).contiguous().view(x.size(0), heads, x.size(2), size)
            for x in (key, value)
        )
        context_layer = self.core_attention(query, key, value, attention_mask)
        return self.dense(context_layer), kv_cache


def _config_to_kwargs(args):
    return {"dtype": args.torch_dtype}


class MLP(torch.nn.Module):
    def __init__(self, config: ChatGLMConfig, device=None):
        super().__init__()
        self.add_bias = config.add_bias_linear
        common = {"bias": self.add_bias, "device": device, **_config_to_kwargs(config)}
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.ffn_hidden_size * 2, **common)

        def swiglu(x):
            gate, up = torch.chunk(x, 2, dim=-1)
            return F.silu(gate) * up

        self.activation_func = swiglu
        self.dense_4h_to_h = nn.Linear(config.ffn_hidden_size, config.hidden_size, **common)

    def forward(self, hidden_states):
        return self.dense_4h_to_h(self.activation_func(self.dense_h_to_4h(hidden_states)))


def _norm(config, device):
    cls = RMSNorm if config.rmsnorm else LayerNorm
    return cls(config.hidden_size, eps=config.layernorm_epsilon, device=device, dtype=config.torch_dtype)


class GLMBlock(torch.nn.Module):
    def __init__(self, config: ChatGLMConfig, layer_number, device=None):
        super().__init__()
        self.layer_number = layer_number
        self.apply_residual_connection_post_layernorm = config.apply_residual_connection_post_layernorm
        self.fp32_residual_connection = config.fp32_residual_connection
        self.input_layernorm = _norm(config, device)
        self.self_attention = SelfAttention(config, layer_number, device=device)
        self.hidden_dropout = config.hidden_dropout
        self.post_attention_layernorm = _norm(config, device)
        self.mlp = MLP(config, device=device)

    def forward(self, hidden_states, attention_mask, rotary_pos_emb, kv_cache=None, use_cache=True):
        layernorm_output = self.input_layernorm(hidden_states)
        attention_output, kv_cache = self.self_attention(
            layernorm_output, attention_mask, rotary_pos_emb, kv_cache=kv_cache, use_cache=use_cache
        )
        residual = layernorm_output if self.apply_residual_connection_post_layernorm else hidden_states
        layernorm_input = residual + attention_output
        layernorm_output = self.post_attention_layernorm(layernorm_input)
        residual = layernorm_output if self.apply_residual_connection_post_layernorm else layernorm_input
        return residual + self.mlp(layernorm_output), kv_cache


class GLMTransformer(torch.nn.Module):
    def __init__(self, config: ChatGLMConfig, device=None):
        super().__init__()
        self.fp32_residual_connection = config.fp32_residual_connection
        self.post_layer_norm = config.post_layer_norm
        self.num_layers = config.num_layers
        self.layers = torch.nn.ModuleList([GLMBlock(config, i + 1, device=device) for i in range(self.num_layers)])
        if self.post_layer_norm:
            self.final_layernorm = _norm(config, device)
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states,
        attention_mask,
        rotary_pos_emb,
        kv_caches=None,
        use_cache: Optional[bool] = True,  # noqa: UP045
        output_hidden_states: Optional[bool] = False,  # noqa: UP045
    ):
        if not kv_caches:
            kv_caches = [None for _ in range(self.num_layers)]
        presents = () if use_cache else None
        for index in range(self.num_layers):
            hidden_states, kv_cache = self.layers[index](
                hidden_states, attention_mask, rotary_pos_emb, kv_cache=kv_caches[index], use_cache=use_cache
            )
            if use_cache:
                if kv_caches[0] is not None:
                    presents = (*presents, kv_cache)
                elif len(presents) == 0:
                    presents = kv_cache
                else:
                    presents = torch.cat((presents, kv_cache), dim=0)
        if self.post_layer_norm:
            hidden_states = self.final_layernorm(hidden_states)
        return hidden_states, presents, None, None


class ChatGLMPreTrainedModel(PreTrainedModel):
    is_parallelizable = False
    supports_gradient_checkpointing = True
    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["GLMBlock"]  # noqa: RUF012
    _supports_flash_attn_2 = True
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module):
        return

    def get_masks(self, input_ids, past_key_values, padding_mask=None):
        batch_size, seq_length = input_ids.shape
        mask = torch.ones(batch_size, seq_length, seq_length).tril()
        if past_key_values:
            past = torch.ones(batch_size, seq_length, past_key_values[0][0].shape[2])
            mask = torch.cat((past, mask), dim=-1)
        return (mask < 0.5).bool().unsqueeze_(1)


class Embedding(torch.nn.Module):
    def __init__(self, config: ChatGLMConfig, device=None):
        super().__init__()
        self.hidden_size = config.hidden_size
        self.word_embeddings = nn.Embedding(
            config.padded_vocab_size, self.hidden_size, dtype=config.torch_dtype, device=device
        )
        self.fp32_residual_connection = config.fp32_residual_connection

    def forward(self, input_ids):
        embeddings = self.word_embeddings(input_ids)
        return embeddings.float() if self.fp32_residual_connection else embeddings


class ChatGLMModel(ChatGLMPreTrainedModel):
    def __init__(self, config: ChatGLMConfig, device=None, empty_init=True):
        super().__init__(config)
        init_method = skip_init if empty_init else default_init
        init_kwargs = {} if device is None else {"device": device}
        self.embedding = init_method(Embedding, config, **init_kwargs)
        self.num_layers = config.num_layers
        self.multi_query_group_num = config.multi_query_group_num
        self.kv_channels = config.kv_channels
        self.seq_length = config.seq_length
        self.rotary_pos_emb = RotaryEmbedding(
            config.kv_channels // 2,
            rope_ratio=config.rope_ratio,
            original_impl=config.original_rope,
            device=device,
            dtype=config.torch_dtype,
        )
        self.encoder = init_method(GLMTransformer, config, **init_kwargs)
        self.output_layer = init_method(
            nn.Linear,
            config.hidden_size,
            config.padded_vocab_size,
            bias=False,
            dtype=config.torch_dtype,
            **init_kwargs,
        )

    def get_input_embeddings(self):
        return self.embedding.word_embeddings

    def set_input_embeddings(self, value):
        self.embedding.word_embeddings = value

    def forward(
        self,
        input_ids,
        position_ids=None,
        attention_mask=None,
        full_attention_mask=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        _, seq_length = input_ids.shape
        if inputs_embeds is None:
            inputs_embeds = self.embedding(input_ids)
        if full_attention_mask is None and past_key_values and seq_length != 1:
            full_attention_mask = self.get_masks(input_ids, past_key_values)
        rotary_pos_emb = self.rotary_pos_emb(self.seq_length)
        rotary_pos_emb = rotary_pos_emb[None, :seq_length] if position_ids is None else rotary_pos_emb[position_ids]
        hidden_states, presents, _, _ = self.encoder(
            inputs_embeds,
            full_attention_mask,
            rotary_pos_emb=rotary_pos_emb,
            kv_caches=past_key_values,
            use_cache=use_cache,
        )
        if presents is not None and type(presents) is torch.Tensor:
            presents = tuple((pair[0], pair[1]) for pair in presents)
        if not return_dict:
            return tuple(v for v in (hidden_states, presents) if v is not None)
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, past_key_values=presents)


class ChatGLMForConditionalGeneration(ChatGLMPreTrainedModel):
    def __init__(self, config: ChatGLMConfig, empty_init=True, device=None):
        super().__init__(config)
        self.max_sequence_length = config.max_length
        self.transformer = ChatGLMModel(config, empty_init=empty_init, device=device)
        self.config = config

    def forward(
        self,
        input_ids=None,
        position_ids=None,
        attention_mask=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        return_last_logit: Optional[bool] = False,  # noqa: UP045
    ):
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        outputs = self.transformer(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=return_dict,
        )
        hidden_states = outputs[0]
        if return_last_logit:
            hidden_states = hidden_states[:, -1:]
        logits = self.transformer.output_layer(hidden_states)
        if not return_dict:
            return (logits, *outputs[1:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=outputs.past_key_values)
