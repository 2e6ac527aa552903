"""Whether code that comes with a checkpoint may run. No torch here, so that a build is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contract.errors import UserError


def code_files(model_dir: Path, config: Mapping[str, Any]) -> list[Path]:
    """The files that `config` (a config.json) names in `auto_map`; none for a model that transformers knows.

    UserError where one is not in `model_dir`.
    """
    entries = [entry for entry in config.get("auto_map", {}).values() if isinstance(entry, str)]
    return sorted({code_file(model_dir, entry) for entry in entries})


def check_allowed(model_dir: Path, config: Mapping[str, Any], trust: bool) -> None:
    """UserError unless the user trusts the code in `model_dir`, or there is none."""
    files = code_files(model_dir, config)
    if files and not trust:
        names = ", ".join(f.name for f in files)
        raise UserError(
            f"this checkpoint brings its own code, which would run on this machine: {names}",
            str(model_dir),
            "read it, then say TRUST_REMOTE_CODE=1 (or --trust-remote-code)",
        )


def check_source(source: object, trust: bool) -> None:
    """UserError for a checkpoint that is not here yet and is known to bring code, unless the user trusts it."""
    if not trust:
        what = "this checkpoint brings modeling code of its own (*.py), which would be fetched and run on this machine"
        raise UserError(what, str(getattr(source, "hub", source)), "read it, then say TRUST_REMOTE_CODE=1")


def split(entry: str) -> tuple[str, str, str]:
    """ "repo--file.Class" to repo (may be empty), file, class."""
    repo, _, path = entry.rpartition("--")
    file, _, name = path.rpartition(".")
    return repo, file, name


def code_file(model_dir: Path, entry: str) -> Path:
    """The file of an entry of auto_map. UserError where it is missing."""
    repo, file, _ = split(entry)
    path = model_dir / f"{file.replace('.', '/')}.py"
    if not path.is_file():
        source = f"download it from {repo} into this directory" if repo else "download it as well"
        raise UserError(f"config.json names the code file {path.name}, which is missing", str(model_dir), source)
    return path
