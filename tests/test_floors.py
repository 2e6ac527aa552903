"""Imports go down only (docs: the house), torch stays where it belongs, and files stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What each folder may import of ours. compile reads four torch-free files of exporters.
ALLOWED = {
    "contract": set(),
    "patches": {"contract"},
    "recipes": {"contract"},
    "runtime": {"contract"},
    "serving": {"contract", "runtime"},
    "exporters": {"contract", "patches", "recipes"},
    "compile": {"contract", "recipes"},
    "cli": {"contract", "patches", "exporters", "recipes", "compile", "runtime", "serving"},
}
EXTRA = {"compile": {"exporters.spec", "exporters.architecture", "exporters.vision", "exporters.lora"}}
FILES = [path for folder in ALLOWED for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name in imports(tree):
        top = name.split(".")[0]
        if top in ALLOWED and top != folder:
            extra = any(name == e or name.startswith(e + ".") for e in EXTRA.get(folder, ()))
            assert top in ALLOWED[folder] or extra, f"{folder} must not import {name}"
        if top in ("torch", "transformers"):
            assert folder in ("patches", "exporters", "cli"), f"{folder} must do without {top}"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "cli"], ids=lambda p: p.name)
def test_the_command_line_imports_torch_late(path: Path) -> None:
    """`hf2bmodel --help` answers at once."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top_level = ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    heavy = ("torch", "transformers", "onnx", "onnxruntime", "huggingface_hub")
    assert not {n for n in imports(top_level) if n.split(".")[0] in heavy}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 300
