"""Test fixture in the shape of the configuration files of MiniCPM-V 2.6 and MiniCPM-o 2.6 (see modeling_*.py)."""

from transformers import PretrainedConfig, Qwen2Config, WhisperConfig
from transformers.utils import logging

from .modeling_navit_siglip import SiglipVisionConfig

logger = logging.get_logger(__name__)


class MiniCPMVSliceConfig(PretrainedConfig):
    model_type = "minicpmv"

    def __init__(self, patch_size=14, max_slice_nums=9, scale_resolution=448, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.max_slice_nums = max_slice_nums
        self.scale_resolution = scale_resolution


class MiniCPMVConfig(Qwen2Config):
    model_type = "minicpmv"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    def __init__(
        self,
        use_cache=True,
        query_num=64,
        image_size=448,
        drop_vision_last_layer=True,
        batch_vision_input=True,
        slice_config=None,
        vision_config=None,
        use_image_id=True,
        vision_batch_size=16,
        **kwargs,
    ):
        self.use_cache = use_cache
        self.query_num = query_num
        self.image_size = image_size
        self.drop_vision_last_layer = drop_vision_last_layer
        self.batch_vision_input = batch_vision_input
        self.use_image_id = use_image_id
        self.vision_batch_size = vision_batch_size
        self.slice_config = MiniCPMVSliceConfig(**(slice_config or {"max_slice_nums": 1}))
        self.slice_mode = True
        self.vision_config = SiglipVisionConfig(**(vision_config or {}))
        self.patch_size = self.vision_config.patch_size
        super().__init__(**kwargs)


class ConditionalChatTTSConfig(PretrainedConfig):
    model_type = "conditional_chattts"

    def __init__(self, llm_dim=2560, hidden_size=768, num_hidden_layers=20, attn_implementation="sdpa", **kwargs):
        super().__init__(**kwargs)
        self.llm_dim = llm_dim
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.attn_implementation = attn_implementation


class MiniCPMOConfig(MiniCPMVConfig):
    """MiniCPM-o 2.6's, whose own file of this name says all that MiniCPM-V's says again (see modeling_minicpmo.py)."""

    model_type = "minicpmo"

    def __init__(
        self,
        audio_config=None,
        tts_config=None,
        audio_pool_step=5,
        audio_chunk_length=1.0,
        stream_input=False,
        init_vision=True,
        init_audio=True,
        init_tts=True,
        **kwargs,
    ):
        self.audio_pool_step = audio_pool_step
        self.audio_chunk_length = audio_chunk_length
        self.stream_input = stream_input
        self.init_vision = init_vision
        self.init_audio = init_audio
        self.init_tts = init_tts
        self.audio_config = WhisperConfig(**(audio_config or {}))
        self.tts_config = ConditionalChatTTSConfig(**(tts_config or {}))
        super().__init__(**kwargs)
