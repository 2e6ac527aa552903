"""Test fixture: a modeling file in the shape of Qwen-7B's, as last published, written for these tests.

ModelScope's real file, which the tests use as well, is an earlier one. Same as in the published file: imports, class
names, module tree, parameter names, forward signatures, the cache (pairs of [batch, positions, heads, head_dim]),
rotary tables computed once in the model (`rotary_pos_emb_list`, a list of [cos, sin]), dynamic NTK kept from the
prefill, logn as a buffer, precision switches, get_head_mask, einops. Different: no padding masks, no training, flash
attention, cache quantization, losses or chat.
"""

import importlib
import math
from typing import TYPE_CHECKING, List, Optional, Tuple  # noqa: UP035

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from transformers import GenerationConfig, PreTrainedTokenizer, StoppingCriteriaList  # noqa: F401
from transformers.generation.logits_process import LogitsProcessorList  # noqa: F401

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer  # noqa: F401
from transformers.generation.utils import GenerateOutput  # noqa: F401
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

try:
    from einops import rearrange
except ImportError:
    rearrange = None
from torch import nn

SUPPORT_CUDA = torch.cuda.is_available()
SUPPORT_BF16 = SUPPORT_CUDA and torch.cuda.is_bf16_supported()

from .configuration_qwen import QWenConfig  # noqa: E402
from .qwen_generation_utils import (  # noqa: E402, F401
    HistoryType,
    StopWordsLogitsProcessor,
    decode_tokens,
    get_stop_words_ids,
    make_context,
)

logger = logging.get_logger(__name__)
flash_attn_unpadded_func = None


def _import_flash_attn():
    global flash_attn_unpadded_func
    from flash_attn.flash_attn_interface import flash_attn_unpadded_func


class QWenAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.register_buffer("masked_bias", torch.tensor(-1e4), persistent=False)
        self.seq_length = config.seq_length
        self.hidden_size = config.hidden_size
        self.split_size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.head_dim = self.hidden_size // self.num_heads
        self.use_flash_attn = config.use_flash_attn
        self.scale_attn_weights = True
        self.projection_size = config.kv_channels * config.num_attention_heads
        self.hidden_size_per_attention_head = self.projection_size // config.num_attention_heads
        self.c_attn = nn.Linear(config.hidden_size, 3 * self.projection_size)
        self.c_proj = nn.Linear(config.hidden_size, self.projection_size, bias=not config.no_bias)
        self.is_fp32 = not (config.bf16 or config.fp16)
        self.bf16 = config.bf16
        self.use_dynamic_ntk = config.use_dynamic_ntk
        self.use_logn_attn = config.use_logn_attn
        logn_list = [math.log(i, self.seq_length) if i > self.seq_length else 1 for i in range(1, 32768)]
        logn_tensor = torch.tensor(logn_list)[None, :, None, None]
        self.register_buffer("logn_tensor", logn_tensor, persistent=False)
        self.attn_dropout = nn.Dropout(config.attn_dropout_prob)
        self.use_cache_quantization = config.use_cache_quantization
        cache_dtype = torch.bfloat16 if self.bf16 else torch.float16 if config.fp16 else torch.float
        self.cache_qmax = torch.tensor(torch.iinfo(torch.uint8).max, dtype=cache_dtype)
        self.cache_qmin = torch.tensor(torch.iinfo(torch.uint8).min, dtype=cache_dtype)

    def _split_heads(self, tensor, num_heads, attn_head_size):
        return tensor.view((*tensor.size()[:-1], num_heads, attn_head_size))

    def _merge_heads(self, tensor, num_heads, attn_head_size):
        return tensor.contiguous().view((*tensor.size()[:-2], num_heads * attn_head_size))

    def forward(
        self,
        hidden_states: Optional[Tuple[torch.FloatTensor]],  # noqa: UP006, UP045
        rotary_pos_emb_list: Optional[List[List[torch.Tensor]]] = None,  # noqa: UP006, UP045
        layer_past: Optional[Tuple[torch.Tensor]] = None,  # noqa: UP006, UP045
        attention_mask=None,
        head_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        output_attentions: Optional[bool] = False,  # noqa: UP045
        use_cache: Optional[bool] = False,  # noqa: UP045
    ):
        mixed = self.c_attn(hidden_states).split(self.split_size, dim=2)
        query, key, value = (self._split_heads(x, self.num_heads, self.head_dim) for x in mixed)
        if rotary_pos_emb_list is not None:
            table = [t[:, -query.shape[1] :, :, :] for t in rotary_pos_emb_list[0]]
            query, key = apply_rotary_pos_emb(query, table), apply_rotary_pos_emb(key, table)
        if layer_past is not None:
            key = torch.cat((layer_past[0], key), dim=1)
            value = torch.cat((layer_past[1], value), dim=1)
        present = (key, value) if use_cache else None
        key_size = key.size(1)
        if key_size > self.seq_length and self.use_logn_attn and not self.training:
            logn_tensor = self.logn_tensor[:, key_size - query.size(1) : key_size, :, :].type_as(query)
            query = query * logn_tensor.expand_as(query)
        causal_mask = None
        if query.size(1) == key_size:
            causal_mask = torch.ones((key_size, key_size), dtype=torch.bool).tril().view(1, 1, key_size, key_size)
        query, key, value = (x.permute(0, 2, 1, 3) for x in (query, key, value))
        attn_output = F.scaled_dot_product_attention(query, key, value, attn_mask=causal_mask).transpose(1, 2)
        context_layer = self._merge_heads(attn_output, self.num_heads, self.head_dim)
        return self.c_proj(context_layer), present


class QWenMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        inner = config.intermediate_size // 2
        self.w1 = nn.Linear(config.hidden_size, inner, bias=not config.no_bias)
        self.w2 = nn.Linear(config.hidden_size, inner, bias=not config.no_bias)
        self.c_proj = nn.Linear(inner, config.hidden_size, bias=not config.no_bias)

    def forward(self, hidden_states):
        return self.c_proj(self.w1(hidden_states) * F.silu(self.w2(hidden_states)))


class QWenBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.bf16 = config.bf16
        self.ln_1 = RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.attn = QWenAttention(config)
        self.ln_2 = RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mlp = QWenMLP(config)

    def forward(
        self,
        hidden_states,
        rotary_pos_emb_list=None,
        layer_past=None,
        attention_mask=None,
        head_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        use_cache=False,
        output_attentions=False,
    ):
        attn_output, present = self.attn(
            self.ln_1(hidden_states),
            rotary_pos_emb_list,
            layer_past=layer_past,
            attention_mask=attention_mask,
            head_mask=head_mask,
            use_cache=use_cache,
            output_attentions=output_attentions,
        )
        hidden_states = attn_output + hidden_states
        hidden_states = hidden_states + self.mlp(self.ln_2(hidden_states))
        return (hidden_states, present) if use_cache else (hidden_states,)


class QWenPreTrainedModel(PreTrainedModel):
    config_class = QWenConfig
    base_model_prefix = "transformer"
    is_parallelizable = False
    supports_gradient_checkpointing = True
    _no_split_modules = ["QWenBlock"]  # noqa: RUF012
    _skip_keys_device_placement = "past_key_values"

    def __init__(self, *inputs, **kwargs):
        super().__init__(*inputs, **kwargs)

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(mean=0.0, std=self.config.initializer_range)


class QWenModel(QWenPreTrainedModel):
    _keys_to_ignore_on_load_missing = ["attn.masked_bias"]  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.vocab_size = config.vocab_size
        self.num_hidden_layers = config.num_hidden_layers
        self.embed_dim = config.hidden_size
        self.gradient_checkpointing = False
        self.use_dynamic_ntk = config.use_dynamic_ntk
        self.seq_length = config.seq_length
        self.wte = nn.Embedding(self.vocab_size, self.embed_dim)
        self.drop = nn.Dropout(config.emb_dropout_prob)
        self.rotary_ndims = None if config.rotary_pct == 1.0 else int(config.kv_channels * config.rotary_pct)
        self.rotary_emb = RotaryEmbedding(self.rotary_ndims or config.kv_channels, base=config.rotary_emb_base)
        self.h = nn.ModuleList([QWenBlock(config) for _ in range(config.num_hidden_layers)])
        self.ln_f = RMSNorm(self.embed_dim, eps=config.layer_norm_epsilon)
        self.post_init()

    def get_input_embeddings(self):
        return self.wte

    def set_input_embeddings(self, new_embeddings):
        self.wte = new_embeddings

    def get_ntk_alpha(self, true_seq_len):
        context_value = math.log(true_seq_len / self.seq_length, 2) + 1
        return max(2 ** math.ceil(context_value) - 1, 1)

    def forward(
        self,
        input_ids=None,
        past_key_values=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        head_mask=None,
        inputs_embeds=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        if past_key_values is None:
            past_key_values = tuple([None] * len(self.h))
        head_mask = self.get_head_mask(head_mask, self.config.num_hidden_layers)
        hidden_states = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        length = kv_seq_len = hidden_states.size()[1]
        if past_key_values[0] is not None:
            kv_seq_len += past_key_values[0][0].shape[1]
        if self.training or not self.use_dynamic_ntk:
            ntk_alpha_list = [1.0]
        elif kv_seq_len != length:
            ntk_alpha_list = self.rotary_emb._ntk_alpha_cached_list
        else:
            ntk_alpha_list = [self.get_ntk_alpha(kv_seq_len)]
        self.rotary_emb._ntk_alpha_cached_list = ntk_alpha_list
        rotary_pos_emb_list = [self.rotary_emb(kv_seq_len, ntk_alpha=alpha) for alpha in ntk_alpha_list]
        hidden_states = self.drop(hidden_states)
        presents = () if use_cache else None
        for i, (block, layer_past) in enumerate(zip(self.h, past_key_values, strict=True)):
            outputs = block(
                hidden_states,
                layer_past=layer_past,
                rotary_pos_emb_list=rotary_pos_emb_list,
                attention_mask=attention_mask,
                head_mask=head_mask[i],
                use_cache=use_cache,
                output_attentions=output_attentions,
            )
            hidden_states = outputs[0]
            if use_cache is True:
                presents = (*presents, outputs[1])
        hidden_states = self.ln_f(hidden_states)
        if not return_dict:
            return tuple(v for v in (hidden_states, presents) if v is not None)
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, past_key_values=presents)


class QWenLMHeadModel(QWenPreTrainedModel):
    _keys_to_ignore_on_load_missing = [r"h\.\d+\.attn\.rotary_emb\.inv_freq"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"h\.\d+\.attn\.masked_bias"]  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        assert config.bf16 + config.fp16 + config.fp32 <= 1, "only one of bf16, fp16 and fp32 can be true"
        if config.bf16 + config.fp16 + config.fp32 == 0:
            config.bf16, config.fp32 = SUPPORT_BF16, not SUPPORT_BF16
        if config.use_flash_attn == "auto":
            config.use_flash_attn = config.bf16 or config.fp16
        if config.use_flash_attn:
            _import_flash_attn()
        self.transformer = QWenModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.bf16:
            self.transformer.bfloat16()
            self.lm_head.bfloat16()
        if config.fp16:
            self.transformer.half()
            self.lm_head.half()
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, new_embeddings):
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids=None,
        past_key_values=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        head_mask=None,
        inputs_embeds=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        labels=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        outputs = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=return_dict,
        )
        logits = self.lm_head(outputs[0])
        if not return_dict:
            return (logits, *outputs[1:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=outputs.past_key_values)


class RotaryEmbedding(torch.nn.Module):
    def __init__(self, dim, base=10000):
        super().__init__()
        self.dim = dim
        self.base = base
        inv_freq = 1.0 / (base ** (torch.arange(0, dim, 2).float() / dim))
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        if importlib.util.find_spec("einops") is None:
            raise RuntimeError("einops is required for Rotary Embedding")
        self._rotary_pos_emb_cache = None
        self._seq_len_cached = 0
        self._ntk_alpha_cached = 1.0
        self._ntk_alpha_cached_list = [1.0]

    def update_rotary_pos_emb_cache(self, seqlen, ntk_alpha=1.0):
        if seqlen > self._seq_len_cached or ntk_alpha != self._ntk_alpha_cached:
            base = self.base * ntk_alpha ** (self.dim / (self.dim - 2))
            self.inv_freq = 1.0 / (base ** (torch.arange(0, self.dim, 2).float() / self.dim))
            self._seq_len_cached = max(2 * seqlen, 16)
            self._ntk_alpha_cached = ntk_alpha
            freqs = torch.outer(torch.arange(self._seq_len_cached).type_as(self.inv_freq), self.inv_freq)
            emb = torch.cat((freqs, freqs), dim=-1)
            from einops import rearrange

            emb = rearrange(emb, "n d -> 1 n 1 d")
            self._rotary_pos_emb_cache = [emb.cos(), emb.sin()]

    def forward(self, max_seq_len, ntk_alpha=1.0):
        self.update_rotary_pos_emb_cache(max_seq_len, ntk_alpha)
        cos, sin = self._rotary_pos_emb_cache
        return [cos[:, :max_seq_len], sin[:, :max_seq_len]]


def _rotate_half(x):
    from einops import rearrange

    x1, x2 = rearrange(x, "... (j d) -> ... j d", j=2).unbind(dim=-2)
    return torch.cat((-x2, x1), dim=-1)


def apply_rotary_pos_emb(t, freqs):
    rot_dim = freqs[0].shape[-1]
    cos, sin = freqs
    t_rot, t_pass = t[..., :rot_dim].float(), t[..., rot_dim:].float()
    t_rot = (t_rot * cos) + (_rotate_half(t_rot) * sin)
    return torch.cat((t_rot, t_pass), dim=-1).type_as(t)


class RMSNorm(torch.nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def _norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x):
        return self._norm(x.float()).type_as(x) * self.weight
