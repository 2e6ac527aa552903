"""`manifest.json`: what lies beside a bmodel and says how it was made and how well it does."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.errors import UserError
from contract.folders import write_whole

if TYPE_CHECKING:
    from contract.vision import Tower

SCHEMA = 1
NAME = "manifest.json"
VERIFIED, FAILED, UNVERIFIED = "verified", "failed", "unverified"


@dataclass
class Manifest:
    """Sizes are bytes, times seconds, cycles as the compiler's profile counts them.

    `model`: source path, hub id and revision, model_type, content hashes of config and weight files; for rope that
    changes with the length of the sequence, `rope_switches` and `rope_restarts` (see Rope); `tower`: fields of
    contract.vision.Tower, of a model that sees.
    `options`: mode, chip, devices, seq_length, head, group size. `geometry`: fields of contract.graphs.Geometry.
    `tools`: versions. `nets`: per net name its kind, layer, quantize, cycles, bytes, seconds.
    `sha256`: of the bmodel. `beside`: of the files that it needs beside it, by name.
    `inputs`: all that decides its bytes, so that they can be made again: the recipe's values, `options` as settled,
    `files` of the checkpoint by name with their SHA-256, `revision` on the hub, `source` (our own version and the
    digest of our code).
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
    sha256: str = ""
    beside: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


@dataclass(frozen=True)
class Rope:
    """Lengths beyond which a conversation uses other rows of its nets' rotary tables, in ascending order, and whether
    one that grows past such a length is computed anew."""

    switches: tuple[int, ...] = ()
    restarts: bool = True

    def row(self, length: int, seq_length: int) -> int:
        """What is added to each position of a conversation of `length` positions."""
        return seq_length * sum(length > switch for switch in self.switches)


def rope(bmodel: Path) -> Rope:
    """Of a bmodel with its manifest beside it; without, rope is taken to be the same at all lengths."""
    if not (bmodel.parent / NAME).is_file():
        return Rope()
    model = read(bmodel.parent).model
    return Rope(tuple(model.get("rope_switches", ())), model.get("rope_restarts", True))


def tower(bmodel: Path) -> Tower | None:
    """What the host must know of the bmodel's vision tower; None where it has none, or no manifest that says so."""
    if not (bmodel.parent / NAME).is_file():
        return None
    from contract.vision import Tower  # with numpy, which takes its time to load

    said = read(bmodel.parent).model.get("tower")
    return Tower(**said) if said else None


def prompt_length(bmodel: Path) -> int:
    """Positions that a prompt may take, by the manifest beside the bmodel."""
    made = read(bmodel.parent)
    whole, part = made.geometry["seq_length"], made.geometry.get("input_length") or 0
    return int(whole if made.options.get("history") or not part else part)


def write(manifest: Manifest, folder: Path) -> None:
    """Whole or not at all."""
    write_whole(folder / NAME, json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n")


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
