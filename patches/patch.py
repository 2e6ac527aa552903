"""Patches of Hugging Face modeling code: applied in memory, for a time, and always restored.

A patch holds a true deviation or a form that makes the compiled graph faster; it never edits a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Patch:
    """`target` is "package.module:Class.attribute" (or ":function"); `versions` the transformers releases for
    which `replacement` was compared with the original."""

    target: str
    replacement: Callable[..., Any]
    reason: str
    versions: str = ">=5.6"

    def owner(self) -> tuple[Any, str]:
        """The object that holds the attribute, and the attribute's name."""
        module, _, path = self.target.partition(":")
        *parents, name = path.split(".")
        holder: Any = import_module(module)
        for parent in parents:
            holder = getattr(holder, parent)
        return holder, name


@contextmanager
def applied(patches: Sequence[Patch]) -> Iterator[None]:
    """Apply all patches, restore all on the way out, whatever happened in between.

    Raises RuntimeError for a transformers release that a patch was not written for.
    """
    installed = version("transformers")
    with ExitStack() as stack:
        for patch in patches:
            if installed not in SpecifierSet(patch.versions):
                raise RuntimeError(f"{patch.target}: written for transformers {patch.versions}, found {installed}")
            holder, name = patch.owner()
            original = vars(holder)[name]
            setattr(holder, name, patch.replacement)
            stack.callback(setattr, holder, name, original)
        yield
