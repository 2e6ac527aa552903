"""Fixtures shared by all floors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny

# Tests never ask a model hub: what they need is made here or comes from a package registry.
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers take a file as a whole, for its fixtures' sake; the zoo's case by case, of which each has its own."""
    for item in items:
        case = getattr(item, "callspec", None) if item.path.stem == "test_zoo" else None
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {case.params['case']}" if case else str(item.path)))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny checkpoint by its name in tests/tiny.py, made once. Copy it before you damage it."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tiny.make(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get
