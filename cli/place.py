"""What DIR names on the command line: a bmodel, its tokenizer, and what ends an answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract import manifest
from contract.errors import UserError
from exporters import tokenizer as tokenizers


@dataclass(frozen=True)
class Place:
    """A bmodel, the folder of its tokenizer, and what its user should know before trusting it."""

    bmodel: Path
    config: Path
    warning: str = ""


def find(folder: Path, config: Path | None = None) -> Place:
    """What DIR names: a build folder, a folder with one bmodel (llm_convert's), or a bmodel. UserError for none."""
    warning = ""
    if folder.is_file():
        bmodel, folder = folder, folder.parent
    elif (folder / manifest.NAME).is_file():
        made = manifest.read(folder)
        bmodel = folder / made.bmodel
        if made.status == manifest.FAILED:
            warning = f"this build failed its verification ({made.reason})"
    else:
        found = sorted(folder.glob("*.bmodel"))
        if len(found) != 1:
            what = "no .bmodel in here" if folder.is_dir() else "no such folder or file"
            what = f"{len(found)} bmodels in here" if found else what
            raise UserError(what, str(folder), "name a build folder or one .bmodel file")
        bmodel = found[0]
    config = config or folder / "config"
    if not (config / "config.json").is_file():
        raise UserError("no config.json in here", str(config), "name the tokenizer's folder with --config")
    return Place(bmodel, config, warning)


def tokenizer(config: Path) -> Any:
    """transformers' tokenizer of that folder. UserError where there is none that can be used."""
    try:
        found = tokenizers.load(config)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"no usable tokenizer ({reason})", str(config), "name its folder with --config") from error
    if found is None:
        raise UserError("no tokenizer in here", str(config), "name its folder with --config")
    return found


def end_tokens(config: Path, tokenizer: Any) -> set[int]:
    """The ids that end an answer: of the generation config, else of the config; and the tokenizer's own."""
    ends: set[int] = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    if stops := tokenizers.stops(config):
        vocabulary = tokenizer.get_vocab()
        ends |= {vocabulary[token] for token in stops if token in vocabulary}
    for name in ("generation_config.json", "config.json"):
        path = config / name
        named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        if named is not None:
            return ends | ({int(i) for i in named} if isinstance(named, list) else {int(named)})
    return ends
