"""`list`: the recipes, and what each would build. Nothing is fetched, and torch stays unloaded."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from contract.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from exporters.spec import DecoderSpec
    from recipes.recipe import Recipe


@dataclass(frozen=True)
class Entry:
    """A recipe. `bytes`: likely size of the bmodel by mode, for one device and with the recipe's own sequence length.

    Modes whose groups do not fit the model's widths are left out. `parameters` is None, and `bytes` empty, where the
    recipe has no `config`.
    """

    name: str
    architecture: str
    parameters: int | None
    seq_length: int
    default_mode: str
    bytes: dict[str, int]
    remote_code: bool


def add_parsers(subparsers: Any) -> None:
    """Registers the command; it sets `run`, a function of the parsed arguments that gives the exit code."""
    zoo = subparsers.add_parser("list", help="the models there are recipes for, and how large each would become")
    zoo.add_argument("--json", action="store_true", help="print them as JSON")
    zoo.set_defaults(run=_list)


def entries() -> tuple[list[Entry], list[UserError]]:
    """Every recipe, by architecture and size, and what is wrong with those that cannot be read."""
    from recipes.recipe import names

    found, faults = [], []
    for name in names():
        try:
            found.append(_entry(name))
        except UserError as error:
            faults.append(error)
    return sorted(found, key=lambda e: (e.architecture, e.parameters or 0, e.name)), faults


def _entry(name: str) -> Entry:
    from compile import estimate
    from contract.modes import MODES
    from exporters.spec import from_config
    from recipes.recipe import load, origin

    recipe = load(name)
    sizes, parameters = {}, None
    if recipe.config:
        spec = from_config(recipe.architecture, recipe.config, origin(name))
        parameters = spec.parameters
        sizes = {
            mode: estimate.bmodel_bytes(recipe, spec, mode, recipe.seq_length, recipe.group_size)
            for mode in MODES
            if _fits(recipe, spec, mode)
        }
    return Entry(name, recipe.architecture, parameters, recipe.seq_length, recipe.mode, sizes, recipe.remote_code)


def _fits(recipe: Recipe, spec: DecoderSpec, mode: str) -> bool:
    """Whether the recipe's groups fit the model's widths in this mode."""
    from compile import plan, quantization

    try:
        quantization.check(recipe, spec, plan.settle(recipe, {"mode": mode}))
    except UserError:
        return False
    return True


def _list(args: argparse.Namespace) -> int:
    found, faults = entries()
    if args.json:
        print(json.dumps([asdict(entry) for entry in found], indent=1))
    else:
        _print(found)
    for fault in faults:
        print(f"hf2bmodel: {fault}", file=sys.stderr)
    return 2 if faults else 0


def _print(found: list[Entry]) -> None:
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else 120)
    console.print(_table(found))
    console.print("Sizes are estimates for one device. Build one: make NAME, or hf2bmodel build NAME.")
    if any(entry.remote_code for entry in found):
        console.print("*: the checkpoint brings modeling code of its own, which runs only with TRUST_REMOTE_CODE=1.")


def _table(found: Iterable[Entry]) -> Table:
    from rich import box
    from rich.table import Table

    from contract.modes import MODES

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("parameters", justify="right")
    table.add_column("architecture", no_wrap=True)
    table.add_column("SEQ", justify="right")
    for mode in MODES:
        table.add_column(mode, justify="right", no_wrap=True)
    for entry in found:
        sizes = (gigabytes(entry.bytes.get(mode)) for mode in MODES)
        star = "*" if entry.remote_code else ""
        table.add_row(entry.name, count(entry.parameters), entry.architecture + star, str(entry.seq_length), *sizes)
    return table


def count(parameters: int | None) -> str:
    if parameters is None:
        return "?"
    return f"{parameters / 1e9:.1f} B" if parameters >= 0.95e9 else f"{parameters / 1e6:.0f} M"


def gigabytes(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1e9:.1f} GB" if size >= 0.95e9 else f"{size / 1e6:.0f} MB"
