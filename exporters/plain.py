"""A checkpoint written out as the plain floats that it reads as, for Hugging Face to load without further libraries."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.numpy import save_file

from exporters.checkpoint import Checkpoint
from exporters.spec import read_config

SHARD = 10**9  # bytes; the shard is in memory while it is written


def write(checkpoint: Checkpoint, folder: Path) -> Path:
    """Float32 shards, their index and a config.json that says nothing of quantisation, in a new folder; that folder."""
    folder.mkdir()
    places: dict[str, str] = {}
    held, size = {}, 0
    names = checkpoint.names()
    for name in names:
        held[name] = checkpoint.read(name)
        size += held[name].nbytes
        if size >= SHARD or name == names[-1]:
            file = f"model-{len(set(places.values())):05}.safetensors"
            save_file(held, folder / file, {"format": "pt"})
            places |= dict.fromkeys(held, file)
            held, size = {}, 0
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config = read_config(checkpoint.folder)
    kept = {key: value for key, value in config.items() if key not in ("quantization_config", "compression_config")}
    (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    return folder
