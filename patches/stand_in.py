"""A stand-in for one name that modeling code imports or calls: where it goes, and what makes it (patches.compat)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class StandIn:
    """`where` is "package.module" or "package.module:Class"; a module that does not exist is made for the time.
    `make()` gives the value. `override`: replace the name although it exists."""

    where: str
    name: str
    make: Callable[[], Any]
    reason: str
    override: bool = False


def constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def function(value: Any) -> Callable[[], Any]:
    """A function that ignores its arguments and returns `value`."""
    return lambda: lambda *_, **__: value


def placeholder(name: str) -> Callable[[], type]:
    """A class to inherit from or to name in an annotation; no code path of an export makes one."""
    return lambda: type(name, (), {})


def attribute(module: str, name: str) -> Callable[[], Any]:
    return lambda: getattr(import_module(module), name)


def group(where: str, reason: str, override: bool = False, **makes: Callable[[], Any]) -> tuple[StandIn, ...]:
    return tuple(StandIn(where, name, make, reason, override) for name, make in makes.items())
