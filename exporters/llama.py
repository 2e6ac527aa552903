"""Llama: Llama-2/3, Yi, DeepSeek-coder, LWM-Text, SmolLM2, TinyStories. Grouped KV heads, any rope scaling."""

from exporters.architecture import Architecture
from exporters.parts import LAYER_WEIGHTS, SPLIT, attention

ARCHITECTURE = Architecture(model_types=("llama",), layer_weights=LAYER_WEIGHTS, swaps=(attention(),), split=SPLIT)
