"""Test fixture: a modeling file in the shape of MiniCPM-o 2.6's, written for these tests.

Same as in the published file: what it imports of packages and of transformers 4, class names, module tree, parameter
names of the half that sees, the switches for what hears and speaks, the processor that its constructor asks for, and
the one dictionary that forward() takes. Different: the half that sees is that of modeling_minicpmv.py, which the
published file has again; of what hears and speaks there is only what building it would need; no chat or streaming.
"""

import types
from copy import deepcopy  # noqa: F401

import librosa  # noqa: F401  (of utils.py beside the published file)
import soundfile as sf  # noqa: F401
import torch.nn as nn
import torch.nn.utils.parametrize as P  # noqa: F401
from huggingface_hub import hf_hub_download  # noqa: F401
from torch.nn.utils.parametrizations import weight_norm  # noqa: F401
from tqdm import tqdm  # noqa: F401
from transformers import (  # noqa: F401
    AutoProcessor,
    BertTokenizerFast,
    LlamaConfig,
    LlamaModel,
    LogitsWarper,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen2PreTrainedModel,
    TextIteratorStreamer,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache, StaticCache  # noqa: F401
from transformers.models.whisper.modeling_whisper import (  # noqa: F401
    ACT2FN,
    WHISPER_ATTENTION_CLASSES,
    WhisperConfig,
    WhisperEncoder,
)

try:
    from vector_quantize_pytorch import GroupedResidualFSQ  # noqa: F401
    from vocos import Vocos  # noqa: F401

    _tts_deps = True
except ImportError:
    _tts_deps = False

from .configuration_minicpm import MiniCPMOConfig
from .modeling_minicpmv import MiniCPMV


class MiniCPMOPreTrainedModel(Qwen2PreTrainedModel):
    config_class = MiniCPMOConfig


class MiniCPMO(MiniCPMOPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.llm = Qwen2ForCausalLM(config)
        self.llm.prepare_inputs_for_generation = types.MethodType(lambda llm, *_, **__: {}, self.llm)
        self.embed_dim = self.llm.config.hidden_size
        if self.config.init_vision:
            self.vpm = self.init_vision_module()
            self.vision_dim = self.vpm.embed_dim
            self.resampler = self.init_resampler(self.embed_dim, self.vision_dim)
        if self.config.init_audio:
            self.apm = MiniCPMWhisperEncoder(self.config.audio_config)
        if self.config.init_tts:
            assert _tts_deps, "please make sure vector_quantize_pytorch and vocos are installed."
        self.processor = AutoProcessor.from_pretrained(self.config._name_or_path, trust_remote_code=True)
        self.terminators = ["<|im_end|>", "<|endoftext|>"]

    init_vision_module = MiniCPMV.init_vision_module
    init_resampler = MiniCPMV.init_resampler
    get_input_embeddings = MiniCPMV.get_input_embeddings
    set_input_embeddings = MiniCPMV.set_input_embeddings
    get_output_embeddings = MiniCPMV.get_output_embeddings
    set_output_embeddings = MiniCPMV.set_output_embeddings
    get_vllm_embedding = MiniCPMV.get_vllm_embedding

    def forward(self, data, **kwargs):
        embedded, _ = self.get_vllm_embedding(data)
        if self.config.init_audio:
            raise NotImplementedError("audio")
        position_ids = data["position_ids"].long()
        return self.llm(input_ids=None, position_ids=position_ids, inputs_embeds=embedded, **kwargs)


class MiniCPMWhisperEncoderLayer(nn.Module):
    def __init__(self, config: WhisperConfig, layer_idx: int):
        super().__init__()
        self.self_attn = WHISPER_ATTENTION_CLASSES[config._attn_implementation](config.d_model, layer_idx)


class MiniCPMWhisperEncoder(WhisperEncoder):
    def __init__(self, config: WhisperConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(MiniCPMWhisperEncoderLayer(config, i) for i in range(config.encoder_layers))
