"""Fixtures shared by all floors."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import servers, tiny

# Tests never ask a model hub: what they need is made here or comes from a package registry.
os.environ["HF_HUB_OFFLINE"] = "1"
# What a shell starts in the background ignores it, and so would we and the commands that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    servers.wanted = item.get_closest_marker("toolchain") is not None
    if "torch" in sys.modules:  # what tests compute themselves is to be as exact as what they compare with it
        from patches import vml

        vml.settle()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Workers take a file as a whole, for its fixtures' sake; the zoo's by case, which share nothing."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.rpartition("-")[0] if "::test_a_case_climbs[" in nodeid else nodeid.partition("::")[0]

    return ByFile(config, log)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny checkpoint by its name in tests/tiny.py, made once. Copy it before you damage it."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tiny.make(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get
