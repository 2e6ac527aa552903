"""Streams tensors from a checkpoint: safetensors (one file or shards) or pytorch_model.bin, memory-mapped.

Nothing is read before it is asked for, so memory holds one tensor at a time whatever the model's size.
Torch is imported for .bin files only.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
from safetensors import SafetensorError, safe_open

from contract.errors import UserError

FLOATS = ("F64", "F32", "F16", "BF16")


class Checkpoint:
    """Tensors by name. `files` are the weight files, in order.

    UserError where an index, a shard or a weight file is missing or truncated.
    """

    def __init__(self, model_dir: Path) -> None:
        self.folder = model_dir
        self.files, self._is_bin = _weight_files(model_dir)
        self._where: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for path in self.files:
            for name in self._load(path).keys():  # noqa: SIM118  (safe_open is no dict)
                self._where[name] = path

    def _load(self, path: Path) -> Any:
        if path not in self._open:
            try:
                self._open[path] = _torch_load(path) if self._is_bin else safe_open(path, "np").__enter__()
            except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UserError(f"truncated or damaged ({reason})", str(path), "download the file again") from error
        return self._open[path]

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
        file = self._load(self._where[name])
        if not self._is_bin:
            return str(file.get_slice(name).get_dtype())
        torch_names = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
        bare = str(file[name].dtype).removeprefix("torch.")
        return torch_names.get(bare, bare)

    def shape(self, name: str) -> tuple[int, ...]:
        file = self._load(self._where[name])
        return tuple(file[name].shape) if self._is_bin else tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One tensor as float32. KeyError where there is none."""
        file = self._load(self._where[name])
        if self._is_bin:
            return np.asarray(file[name].float().numpy())
        return np.asarray(file.get_tensor(name).astype(np.float32))


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
