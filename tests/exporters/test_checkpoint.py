"""Streaming checkpoints: every layout gives the same tensors, every damage one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from contract.errors import UserError
from exporters import architecture, spec
from exporters.checkpoint import Checkpoint
from tests import tiny


def require(folder: Path) -> None:
    found = spec.read(folder)
    Checkpoint(folder).require(architecture.find(found.model_type).required_weights(found))


@pytest.fixture
def copy(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint("llama"), tmp_path / "copy")


@pytest.mark.parametrize("name", list(tiny.CASES))
def test_every_case_holds_what_its_architecture_requires(name: str, checkpoint: Callable[[str], Path]) -> None:
    require(checkpoint(name))


def test_shards_and_bin_files_give_the_same_tensors(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    whole = Checkpoint(checkpoint("qwen2"))
    shards = Checkpoint(tiny.make("qwen2", tmp_path / "shards", shard_bytes=200_000))
    assert len(shards.files) > 1
    (tmp_path / "bin").mkdir()
    torch.save(load_file(whole.files[0]), tmp_path / "bin" / "pytorch_model.bin")
    binary = Checkpoint(tmp_path / "bin")
    assert sorted(whole.names()) == sorted(shards.names()) == sorted(binary.names())
    for name in whole.names():
        assert whole.dtype(name) == binary.dtype(name) == "BF16"
        assert whole.shape(name) == binary.shape(name)
        np.testing.assert_array_equal(whole.read(name), shards.read(name))
        np.testing.assert_array_equal(whole.read(name), binary.read(name))


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no weights; a checkpoint holds model\.safetensors or"):
        require(copy)


@pytest.mark.parametrize("keep", [0, 5, 1000, -7])
def test_a_truncated_file(copy: Path, keep: int) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors: truncated or damaged .*; download the file again"):
        require(copy)


def test_a_damaged_bin_file(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"not a pickle at all")
    with pytest.raises(UserError, match="truncated or damaged"):
        Checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = tiny.make("llama", tmp_path, shard_bytes=300_000)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(UserError, match=r"the shard model-00002-of-.* is missing; download it as well"):
        require(folder)


def test_a_damaged_index(copy: Path) -> None:
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": 3}))
    with pytest.raises(UserError, match="not an index of shards"):
        require(copy)


def test_a_missing_tensor_is_named(copy: Path) -> None:
    file = copy / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"lacks the tensor model\.layers\.1\.mlp\.up_proj\.weight; download"):
        require(copy)


def test_a_dtype_that_cannot_be_converted_is_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"model\.norm\.weight has dtype I8, which is not supported; take"):
        require(copy)
