"""`manifest.json`: what lies beside a bmodel and says how it was made and how well it does."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contract.errors import UserError

SCHEMA = 1
NAME = "manifest.json"
VERIFIED, FAILED, UNVERIFIED = "verified", "failed", "unverified"


@dataclass
class Manifest:
    """Sizes are bytes, times seconds, cycles as the compiler's profile counts them.

    `model`: source path, hub id and revision, model_type, content hashes of config and weight files.
    `options`: mode, chip, devices, seq_length, head, group size. `geometry`: fields of contract.graphs.Geometry.
    `tools`: versions. `nets`: per net name its kind, layer, quantize, cycles, bytes, seconds.
    `parity`: Score records. `status`: verified, failed or unverified, with `reason`.
    """

    name: str
    bmodel: str
    recipe: str
    model: dict[str, Any]
    options: dict[str, Any]
    geometry: dict[str, Any]
    tools: dict[str, str] = field(default_factory=dict)
    nets: dict[str, dict[str, Any]] = field(default_factory=dict)
    parity: list[dict[str, Any]] = field(default_factory=list)
    status: str = UNVERIFIED
    reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA


def write(manifest: Manifest, folder: Path) -> None:
    """Whole or not at all: written beside, then renamed."""
    path = folder / NAME
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, path)


def read(folder: Path) -> Manifest:
    path = folder / NAME
    if not path.is_file():
        raise UserError("no manifest.json here", str(folder), "name the folder that `hf2bmodel build` made")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("schema") != SCHEMA:
            raise UserError(f"manifest schema {data.get('schema')!r} is not {SCHEMA}", str(path), "build again")
        return Manifest(**data)
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(f"not a manifest ({error})", str(path), "build again") from error
