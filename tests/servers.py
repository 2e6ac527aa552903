"""Fork servers (compile.forks) that serve all builds of a test run: half of a tiny build is imports."""

from __future__ import annotations

import functools

from compile import forks, toolchain
from contract.errors import UserError

wanted = False  # whether the test that runs is one with the compiler (tests/conftest.py)


def lent() -> dict[str, int]:
    """The sockets of those that serve, by name; empty for tests that only look at what a build says."""
    return _lent() if wanted else {}


@functools.cache
def _lent() -> dict[str, int]:
    found = {}
    for names, servers in _servers():
        found |= servers.lend(names)
    return found


@functools.cache
def _servers() -> list[tuple[tuple[str, ...], forks.Servers]]:
    """They end when this process does, and their sockets with it."""
    made = [((forks.TORCH, forks.ARRAYS), forks.Servers(toolchain.exporter().environment()))]
    try:
        compiler = forks.Servers(toolchain.find().runner.environment())
    except UserError:
        return made
    return [*made, (tuple(set(forks.SERVED) - {forks.TORCH, forks.ARRAYS}), compiler)]
