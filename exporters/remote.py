"""Checkpoints whose modeling code comes with them: their files imported as they are, and whole models built from them.

`from_pretrained` is not used: transformers 5.x builds on the meta device and hands such code uninitialised buffers.
Here parameters come from the checkpoint, and buffers and plain tensors are what the code's own constructors computed.
Nothing is copied or written, and nothing is fetched.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from contract.errors import UserError
from exporters.checkpoint import Checkpoint
from exporters.trust import code_file, split
from patches import compat, vml

MODEL_KEYS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText", "AutoModel")
# What every configuration had until transformers 5, by its default, and modeling code reads.
DEFAULTS_OF_4: dict[str, Any] = {
    "bos_token_id": None,
    "eos_token_id": None,
    "is_decoder": False,
    "max_length": 20,
    "pad_token_id": None,
    "pruned_heads": {},
    "tie_word_embeddings": True,
    "torchscript": False,
    "use_return_dict": True,
}
# Switches of Qwen-1; left alone they follow the machine's GPU.
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Switches of kernels that need a GPU.
OFF = ("use_flash_attn", "use_cache_quantization", "use_cache_kernel")
# Switches of parts that no net is made of: MiniCPM-o's, for what it hears and says.
LEFT_OUT = ("init_audio", "init_tts")
# Buffers that older releases saved with the weights; later files compute them.
STALE = re.compile(r"(rotary_emb|rotary_pos_emb)\.inv_freq$|\.(masked_)?bias$|position_ids$")


def load(model_dir: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, type[nn.Module]]:
    """The checkpoint's configuration, for weights of `dtype` and eager attention, and its class of language model.

    Runs the checkpoint's code: ask `exporters.trust` first. UserError where the code cannot be imported.
    """
    values = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    auto_map = values.get("auto_map", {})
    model_entry = next((auto_map[key] for key in MODEL_KEYS if key in auto_map), None)
    if model_entry is None or "AutoConfig" not in auto_map:
        remedy = "its auto_map must name an AutoConfig and one of " + ", ".join(MODEL_KEYS)
        raise UserError("names no code for a language model", str(model_dir / "config.json"), remedy)
    with compat.importing():
        config_class = _class(model_dir, auto_map["AutoConfig"])
        model_class = _class(model_dir, model_entry)
    return _configure(config_class, values, dtype), model_class


def empty(model_class: type[nn.Module], config: Any) -> nn.Module:
    """The whole model in eval mode: parameters on the meta device, buffers and plain tensors computed.

    RuntimeError where a buffer or tensor could not be computed.
    """
    vml.settle()
    with compat.building(), init_empty_weights(include_buffers=False):
        model = model_class(config).eval()
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)
    _tie(model)
    lost = [name for name, tensor in _tensors(model) if tensor.is_meta]
    if lost:
        raise RuntimeError(f"{lost[0]} has no values: it is computed from weights, before there are any")
    return model


def load_whole(model_dir: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The whole model in memory, in eval mode. Call it inside `patches.compat.running()`.

    UserError where the checkpoint lacks a weight or holds one of another shape; a warning where it holds more.
    """
    config, model_class = load(model_dir, dtype)
    model = empty(model_class, config)
    fill(model, Checkpoint(model_dir), dtype)
    return model


def fill(model: nn.Module, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    """Give every parameter of an `empty` model its weights from `checkpoint`."""
    places: dict[int, list[str]] = {}  # the names of each parameter; tied ones have several
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), []).append(name)
    sources = [next((n for n in names if n in checkpoint), names[0]) for names in places.values()]
    checkpoint.require(sources)
    for source, names in zip(sources, places.values(), strict=True):
        shape = tuple(model.get_parameter(names[0]).shape)
        if checkpoint.shape(source) != shape:
            what = f"{source} has shape {list(checkpoint.shape(source))}, but config.json says {list(shape)}"
            raise UserError(what, str(checkpoint.folder), "take config.json and weights of the same model")
        weight = nn.Parameter(torch.from_numpy(checkpoint.read(source)).to(dtype), requires_grad=False)
        for name in names:
            path, _, leaf = name.rpartition(".")
            model.get_submodule(path)._parameters[leaf] = weight
    _load_buffers(model, checkpoint)
    _report_unexpected(model, checkpoint, {name for names in places.values() for name in names})


def _load_buffers(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Buffers in the checkpoint are loaded where they say something else than the constructor; equal up to half
    precision, they are the constructor's value, rounded (rotary frequencies)."""
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in saved and name in checkpoint:
            stored = torch.from_numpy(checkpoint.read(name)).to(buffer.dtype)
            if stored.shape != buffer.shape or not torch.allclose(stored, buffer, rtol=1e-2, atol=1e-6):
                buffer.copy_(stored)


def _report_unexpected(model: nn.Module, checkpoint: Checkpoint, used: set[str]) -> None:
    ignored = [re.compile(p) for p in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()] + [STALE]
    known = used | {name for name, _ in model.named_buffers()}
    unexpected = [n for n in checkpoint.names() if n not in known and not any(p.search(n) for p in ignored)]
    if unexpected:
        more = f" and {len(unexpected) - 1} more" if len(unexpected) > 1 else ""
        warnings.warn(f"{checkpoint.folder}: {unexpected[0]}{more}: not a weight of the model, left out", stacklevel=3)


def _tie(model: nn.Module) -> None:
    """One parameter for embedding and head where the configuration says so. Transformers 5.x does it by a table that
    older code writes in another form."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and getattr(module.config, "tie_word_embeddings", False):
            head, table = module.get_output_embeddings(), module.get_input_embeddings()
            if head is not None and head.weight.shape == table.weight.shape:
                head.weight = table.weight


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers and tensors that are plain attributes, alone or in a sequence."""
    yield from model.named_buffers()
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            for tensor in value if isinstance(value, list | tuple) else (value,):
                if isinstance(tensor, torch.Tensor):
                    yield f"{path}.{name}", tensor


def _configure(config_class: Any, values: dict[str, Any], dtype: torch.dtype) -> Any:
    """The configuration as transformers 4 would have made it from config.json."""
    with compat.building():
        config = config_class(**{**copy.deepcopy(values), "attn_implementation": "eager", "torch_dtype": dtype})
        _complete(config, values, dtype)
    return config


def _complete(config: Any, values: dict[str, Any], dtype: torch.dtype) -> None:
    """The configuration, and those of the model's parts inside it."""
    for name, value in {**DEFAULTS_OF_4, **values}.items():
        if not hasattr(config, name):  # 5.x drops some keys, and no longer has all defaults
            setattr(config, name, value)
    if "rope_scaling" in values and compat.of_own_code(type(config)):
        config.rope_parameters = values["rope_scaling"]  # its new name; 5.x adds keys while it validates them
    config._attn_implementation = "eager"
    config.dtype = dtype
    for name, precision in PRECISIONS.items():
        if hasattr(config, name):
            setattr(config, name, precision == dtype)
    for name in (*OFF, *LEFT_OUT):
        if hasattr(config, name):
            setattr(config, name, False)
    for name, part in list(vars(config).items()):
        if isinstance(part, PretrainedConfig):
            _complete(part, values.get(name, {}), dtype)


def _class(model_dir: Path, entry: str) -> Any:
    file = code_file(model_dir, entry)
    _, module, name = split(entry)
    try:
        return getattr(import_module(f"{_package(model_dir)}.{module}"), name)
    except ModuleNotFoundError as error:
        remedy = f"install it beside hf2bmodel: {sys.executable} -m pip install {error.name}"
        raise UserError(f"needs the Python package {error.name}", str(file), remedy) from error
    except (ImportError, AttributeError) as error:
        remedy = "this release of transformers no longer has what the file needs"
        raise UserError(f"cannot be imported ({error})", str(file), remedy) from error


def _package(model_dir: Path) -> str:
    """The name under which `model_dir` is a package: another one wherever a Python file in it changes."""
    folder = model_dir.resolve()
    digest = hashlib.sha256(str(folder).encode())
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    name = f"hf2bmodel_remote_{digest.hexdigest()[:16]}"
    if name not in sys.modules:
        _FINDER.folders[name] = folder
        if _FINDER not in sys.meta_path:
            sys.meta_path.append(_FINDER)
        package = ModuleType(name, f"The code that lies in {folder}.")
        package.__path__ = []  # makes it a package; the finder knows where its modules are
        sys.modules[name] = package
    return name


class _Finder(MetaPathFinder):
    """Finds the modules of checkpoints' packages."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        if package not in self.folders:
            return None
        base = self.folders[package] / rest.replace(".", "/")
        for file, inner in ((base.with_name(f"{base.name}.py"), None), (base / "__init__.py", [])):
            if file.is_file():
                loader = _Loader(fullname, str(file))
                return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inner)
        return ModuleSpec(fullname, None, is_package=True) if base.is_dir() else None


class _Loader(SourceFileLoader):
    """Leaves no __pycache__ in the user's folder, and reads none."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


_FINDER = _Finder()
