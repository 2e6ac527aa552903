"""Streams tensors from a checkpoint: safetensors (one file or shards) or pytorch_model.bin, memory-mapped.

Quantised ones (exporters.quantized) read as the floats that they stand for.
Nothing is read before it is asked for, so memory holds one tensor at a time whatever the model's size.
Torch is imported for .bin files only.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
from safetensors import SafetensorError, safe_open

from contract.errors import UserError
from exporters import adapter as adapters
from exporters import quantized
from exporters.adapter import Adapter
from exporters.architecture import tables
from exporters.quantized import LAYOUTS, Array, Grid, packed_modules

Floats = np.ndarray[Any, np.dtype[np.float32]]
PIECE = 2**26  # bytes of float32 that are converted at once
FLOATS = ("F64", "F32", "F16", "BF16")


def _same(name: str) -> str:
    return name


class _Files:
    """Tensors as they are stored, by the names that `in_memory` gives them. `paths`: the weight files, in order."""

    def __init__(self, paths: list[Path], is_bin: bool, in_memory: Callable[[str], str] = _same) -> None:
        self.paths, self._is_bin = paths, is_bin
        self.where: dict[str, Path] = {}
        self._stored: dict[str, str] = {}
        self._open: dict[Path, Any] = {}
        for path in self.paths:
            for stored in self._load(path).keys():  # noqa: SIM118  (safe_open is no dict)
                name = in_memory(stored)
                self.where[name], self._stored[name] = path, stored

    def _load(self, path: Path) -> Any:
        if path not in self._open:
            try:
                self._open[path] = _torch_load(path) if self._is_bin else safe_open(path, "np").__enter__()
            except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UserError(f"truncated or damaged ({reason})", str(path), "download the file again") from error
        return self._open[path]

    def __contains__(self, name: str) -> bool:
        return name in self.where

    def names(self) -> list[str]:
        return list(self.where)

    def dtype(self, name: str) -> str:
        """As safetensors spells it: F32, F16, BF16, …"""
        file, name = self._load(self.where[name]), self._stored[name]
        if not self._is_bin:
            return str(file.get_slice(name).get_dtype())
        torch_names = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
        bare = str(file[name].dtype).removeprefix("torch.")
        return torch_names.get(bare, bare)

    def shape(self, name: str) -> tuple[int, ...]:
        file, name = self._load(self.where[name]), self._stored[name]
        return tuple(file[name].shape) if self._is_bin else tuple(file.get_slice(name).get_shape())

    def raw(self, name: str) -> Array:
        """One tensor, bfloat16 of a .bin file as float32. KeyError where there is none."""
        file, stored = self._load(self.where[name]), self._stored[name]
        if not self._is_bin:
            return np.asarray(file.get_tensor(stored))
        tensor = file[stored]
        return np.asarray((tensor.float() if self.dtype(name) == "BF16" else tensor).numpy())

    def read(self, name: str, transposed: bool = False) -> Floats:
        """The same as float32, converted, and `transposed` if it is a matrix, by pieces: a vocabulary's table is there
        once."""
        shape = self.shape(name)
        if len(shape) != 2 or self._is_bin:
            value = self.raw(name).astype(np.float32)
            return np.ascontiguousarray(value.T if transposed else value)
        whole, out = self._load(self.where[name]).get_slice(self._stored[name]), np.empty(shape, np.float32)
        out = out.reshape(shape[::-1]) if transposed else out
        step = max(1, PIECE // max(1, 4 * shape[1]))
        for start in range(0, shape[0], step):
            piece = np.asarray(whole[start : min(start + step, shape[0])])
            if transposed:
                out[:, start : start + step] = piece.T
            else:
                out[start : start + step] = piece
        return out


class Checkpoint:
    """Tensors by name, as floats: of a module whose weight is quantised, `<module>.weight` stands for the packed
    tensors, and an `adapter` (exporters.adapter) is merged. `files` are the weight files, in order.

    UserError where an index, a shard or a weight file is missing or truncated, where the quantisation is not read
    here, or where the adapter cannot be merged.
    """

    def __init__(self, model_dir: Path, adapter: Path | None = None) -> None:
        self.folder = model_dir
        config = _config(model_dir)
        architecture = tables().get(config.get("model_type", ""))
        self._files = _Files(*_weight_files(model_dir), architecture.in_memory if architecture else _same)
        self.files = self._files.paths
        self.scheme = quantized.read(config, str(model_dir / "config.json"))
        modules = packed_modules(self._files.where, self.scheme) if self.scheme else {}
        self._modules = {f"{module}.weight": module for module in modules}
        hidden = {name for parts in modules.values() for name in parts}
        self._where = {name: path for name, path in self._files.where.items() if name not in hidden}
        self._where |= {f"{module}.weight": self._files.where[parts[0]] for module, parts in modules.items()}
        self._adapter = None
        if adapter:
            tied = bool(config.get("tie_word_embeddings", "lm_head.weight" not in self._where))
            self._adapter = adapter_of(adapter, self, tied)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def names(self) -> list[str]:
        return list(self._where)

    def require(self, names: Iterable[str]) -> None:
        """UserError naming the first tensors that are not there or whose dtype cannot be converted."""
        missing = [n for n in names if n not in self._where]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"lacks the tensor {missing[0]}{more}", str(self.folder), "download the whole checkpoint")
        for name in names:
            dtype = self.dtype(name)
            if dtype not in FLOATS:
                remedy = "take the checkpoint in float32, float16 or bfloat16"
                raise UserError(f"{name} has dtype {dtype}, which is not supported", str(self._where[name]), remedy)

    def dtype(self, name: str) -> str:
        """As safetensors spells it: F32, F16, BF16, …"""
        return "F32" if name in self._modules else self._files.dtype(name)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._modules:
            return self._files.shape(name)
        assert self.scheme
        return LAYOUTS[self.scheme.method].shape(self._files, self._modules[name], self.scheme)

    def read(self, name: str, transposed: bool = False) -> Floats:
        """One tensor as float32; `transposed`: of a matrix. KeyError where there is none."""
        grid = self.grid(name)
        if not grid and not self._adapter:
            return self._files.read(name, transposed)
        value = grid.weight() if grid else self._files.read(name)
        value = self._adapter.apply(name, value) if self._adapter else value
        return np.ascontiguousarray(value.T) if transposed else value

    def grid(self, name: str) -> Grid | None:
        """The grid on which a tensor lies, None for one that is stored as floats."""
        if name not in self._modules:
            return None
        assert self.scheme
        return LAYOUTS[self.scheme.method].read(self._files, self._modules[name], self.scheme)

    def out_of_order(self, name: str) -> bool:
        """Whether a tensor lies on a grid whose groups are no neighbouring channels."""
        module = self._modules.get(name, "")
        found = [n for n in (f"{module}.g_idx", f"{module}.weight_g_idx") if n in self._files]
        if not module or not found:
            return False
        scales = next(self._files.shape(n) for n in (f"{module}.scales", f"{module}.weight_scale") if n in self._files)
        groups = scales[0] if found[0].endswith(".g_idx") else scales[1]
        return quantized.group_of(self._files, found[0], groups) is not None


def adapter_of(folder: Path, base: adapters.Tensors, tied: bool = False, **words: Any) -> Adapter:
    """The adapter in `folder`, for `base`. UserError as Adapter has it, in those `words`."""
    file = adapters.file(folder)
    return Adapter(folder, _Files([file], file.suffix == ".bin"), base, tied, **words)


def _config(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "config.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _weight_files(folder: Path) -> tuple[list[Path], bool]:
    for stem, is_bin in (("model.safetensors", False), ("pytorch_model.bin", True)):
        index = folder / f"{stem}.index.json"
        if index.is_file():
            return _shards(index), is_bin
        if (folder / stem).is_file():
            return [folder / stem], is_bin
    remedy = "a checkpoint holds model.safetensors or pytorch_model.bin, or an index of shards"
    raise UserError("holds no weights", str(folder), remedy)


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (json.JSONDecodeError, KeyError, AttributeError) as error:
        raise UserError("not an index of shards", str(index), "download the file again") from error
    files = [index.parent / name for name in names]
    missing = [f for f in files if not f.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"the shard {missing[0].name}{more} is missing", str(index.parent), "download it as well")
    return files


def _torch_load(path: Path) -> dict[str, Any]:
    import torch

    loaded: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return loaded
