"""Stand-ins for what modeling code of 2023/24 imports or calls and newer releases removed.

Data, each with its reason; three context managers put them in place and always take them away again: `importing`
while a checkpoint's files are imported, `building` while its config and modules are made, `running` while they are
called. A name that exists is left alone unless its record says `override`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from patches.packages import ASKED_FOR, PACKAGES
from patches.stand_in import StandIn, attribute, constant, function, group, placeholder

ABSENT = object()


_NO_GPU = "its kernels need a GPU and half precision; without it the files take their plain path"
_OVERWRITTEN = "fills weights with random numbers, which takes minutes, and the checkpoint replaces them"

IMPORTING: tuple[StandIn, ...] = (
    *PACKAGES,
    *(
        record
        for where in ("transformers.utils.import_utils", "transformers.utils")  # the second re-exports the first
        for record in (
            *group(where, "gone in 5.0; it guards a wrapper for torch.fx", is_torch_fx_available=function(False)),
            *group(where, _NO_GPU, is_flash_attn_greater_or_equal_2_10=function(False)),
            *group(
                where,
                f"true where flash_attn is installed, but {_NO_GPU}",
                True,
                is_flash_attn_2_available=function(False),
            ),
        )
    ),
    *group(
        "transformers.pytorch_utils",
        "announced to go: a version that every torch has passed, and a list that RMSNorm classes enter",
        is_torch_greater_or_equal_than_1_13=constant(True),
        ALL_LAYERNORM_LAYERS=list,
    ),
    *group("transformers.modeling_utils", "no longer re-exported", ALL_LAYERNORM_LAYERS=list),
    *group(
        "transformers.generation.logits_process",
        "merged into its base class",
        LogitsWarper=attribute("transformers", "LogitsProcessor"),
    ),
    *group(
        "transformers",
        "constrained beam search is gone, and a base class merged into its own; files import them for annotations",
        BeamSearchScorer=placeholder("BeamSearchScorer"),
        LogitsWarper=attribute("transformers", "LogitsProcessor"),
        DisjunctiveConstraint=placeholder("DisjunctiveConstraint"),
    ),
    *group(
        "transformers.utils.model_parallel_utils",
        "the module is gone; for one model on several GPUs",
        assert_device_map=function(None),
        get_device_map=function(None),
    ),
    *group(
        "transformers.models.whisper.modeling_whisper",
        "gone in 5.0; for what MiniCPM-o hears, of which no net is made",
        WHISPER_ATTENTION_CLASSES=dict,
    ),
    *group(
        "transformers.deepspeed",
        "moved to transformers.integrations; for training",
        is_deepspeed_zero3_enabled=function(False),
    ),
    *group(
        "torch._C",
        "called at import (ChatGLM), they change TorchScript for the whole process, which the tracing shares",
        override=True,
        _jit_set_profiling_mode=function(None),
        _jit_set_profiling_executor=function(None),
        _jit_override_can_fuse_on_cpu=function(None),
        _jit_override_can_fuse_on_gpu=function(None),
    ),
)

# Importing these fails for the time, as where they are not installed.
HIDDEN: dict[str, str] = {"flash_attn": _NO_GPU, "xformers": _NO_GPU}


def of_own_code(config_class: type) -> bool:
    """Whether a configuration is read by modules of the checkpoint's, and not by those of a model of transformers'."""
    return not any(c.__module__.startswith("transformers.models.") for c in config_class.__mro__)


def _files_own(name: str, value: Any) -> Callable[[], Any]:
    """A method of PretrainedConfig that gives `value(kwargs)` for a checkpoint's own class, and does as ever for
    transformers' classes, which a checkpoint may use for a part of itself, and for those that extend them."""

    def make() -> Any:
        original = getattr(import_module("transformers").PretrainedConfig, name)

        def method(self: Any, **kwargs: Any) -> Any:
            return value(kwargs) if of_own_code(type(self)) else original(self, **kwargs)

        return method

    return make


BUILDING: tuple[StandIn, ...] = (
    *group(
        "transformers:PretrainedConfig",
        "5.x rewrites rope_scaling (None becomes a dict, keys are added), which the files read as it was written",
        override=True,
        convert_rope_params_to_dict=_files_own("convert_rope_params_to_dict", lambda kwargs: kwargs),
        standardize_rope_params=_files_own("standardize_rope_params", lambda _: None),
    ),
    *group(
        "transformers:GenerationConfig",
        "5.x drops the keys that it names (use_cache, max_length, ...) from config.json, and the files read them",
        override=True,
        _get_default_generation_params=constant(staticmethod(dict)),
    ),
    *group(
        "transformers:PreTrainedModel",
        f"{_OVERWRITTEN}; and ties weights by a table that 4.x code writes as a list",
        override=True,
        init_weights=function(None),
        get_expanded_tied_weights_keys=function({}),
    ),
    *group(
        "transformers:AutoProcessor",
        "MiniCPM-o's constructor fetches one for chat(), which an export never calls",
        override=True,
        from_pretrained=constant(lambda *_, **__: None),
    ),
    *group("torch.nn:Linear", _OVERWRITTEN, override=True, reset_parameters=function(None)),
    *group("torch.nn:Embedding", _OVERWRITTEN, override=True, reset_parameters=function(None)),
    *group(
        "torch.nn:Module",
        "skip_init (ChatGLM) makes modules on the meta device, then takes memory for weights and buffers alike",
        override=True,
        to_empty=constant(lambda self, **_: self),
    ),
)


def _get_head_mask(self: Any, head_mask: Any, num_hidden_layers: int, is_attention_chunked: bool = False) -> list[None]:
    if head_mask is not None:
        raise NotImplementedError("head masks are for pruning experiments; an export has none")
    return [None] * num_hidden_layers


def _from_legacy_cache(cls: Any, past_key_values: Any = None) -> Any:
    cache = cls()
    for index, (k, v) in enumerate(past_key_values or ()):
        cache.update(k, v, index)
    return cache


def _to_legacy_cache(self: Any) -> tuple[tuple[Any, Any], ...]:
    return tuple((layer.keys, layer.values) for layer in self.layers)


RUNNING: tuple[StandIn, ...] = (
    *group("transformers:PreTrainedModel", "gone in 5.0", get_head_mask=constant(_get_head_mask)),
    *group(
        "transformers.cache_utils:DynamicCache",
        "the cache as tuples, gone in 5.0, and older names of its length",
        from_legacy_cache=constant(classmethod(_from_legacy_cache)),
        to_legacy_cache=constant(_to_legacy_cache),
        __getitem__=constant(lambda self, index: _to_legacy_cache(self)[index]),
        get_usable_length=constant(lambda self, _new, layer=0: self.get_seq_length(layer)),
        seen_tokens=constant(property(lambda self: self.get_seq_length())),
    ),
)


@contextmanager
def installed(records: Sequence[StandIn]) -> Iterator[None]:
    """Put `records` in place; take them and the modules made for them away on the way out, whatever happened."""
    with ExitStack() as stack:
        for record in records:
            module, _, cls = record.where.partition(":")
            holder: Any = _module(module, stack)
            if cls:
                holder = getattr(holder, cls)
            if hasattr(holder, record.name) and not record.override:
                continue
            stack.callback(_restore, holder, record.name, vars(holder).get(record.name, ABSENT))
            setattr(holder, record.name, record.make())
        yield


@contextmanager
def importing() -> Iterator[None]:
    """For the import of a checkpoint's own files."""
    utils: Any = import_module("transformers.utils.import_utils")
    for package in ASKED_FOR:  # it remembers the answer, which must not be a stand-in
        getattr(utils, f"is_{package}_available")()
    import_module("transformers.processing_utils")  # puts another `transformers` into sys.modules, once
    with installed(IMPORTING), _without_warnings(), ExitStack() as stack:
        for name in HIDDEN:
            for present in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
                stack.callback(sys.modules.__setitem__, present, sys.modules.pop(present))
            stack.callback(sys.modules.pop, name, None)
            sys.modules[name] = None  # type: ignore[assignment]  # how Python spells "may not be imported"
        yield


@contextmanager
def building() -> Iterator[None]:
    """For making config and modules: imports in their constructors see what `importing` shows."""
    with importing(), installed(BUILDING):
        yield


@contextmanager
def running() -> Iterator[None]:
    """For calling the modules."""
    with installed(RUNNING), _without_warnings():
        yield


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The files advise to install GPU packages; torch and transformers advise their authors to rename things."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logging.disable(before)


def _module(name: str, stack: ExitStack) -> ModuleType:
    """The module, or an empty one (and its parents) in its place until `stack` closes."""
    try:
        return import_module(name)
    except Exception:  # a broken package may raise anything while it is imported
        made = ModuleType(name, "Made for the time of an import.")
        made.__path__ = []
        parent, _, leaf = name.rpartition(".")
        if parent:
            holder = _module(parent, stack)
            stack.callback(_restore, holder, leaf, vars(holder).get(leaf, ABSENT))
            setattr(holder, leaf, made)
        stack.callback(sys.modules.pop, name, None)
        sys.modules[name] = made
        return made


def _restore(holder: Any, name: str, value: Any) -> None:
    if value is not ABSENT:
        setattr(holder, name, value)
    elif name in vars(holder):
        delattr(holder, name)
