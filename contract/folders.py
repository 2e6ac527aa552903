"""Where what is kept for later lies, beside the builds, and how a file comes to lie somewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def kept(environ: Mapping[str, str] = os.environ) -> Path:
    """$XDG_CACHE_HOME (or ~/.cache)/hf2bmodel; it need not be there."""
    return Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home()) / ".cache") / "hf2bmodel"


def write_whole(path: Path, text: str) -> None:
    """The file, whole or not at all: written beside, then renamed. OSError where it cannot be written."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
