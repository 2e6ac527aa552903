"""Plans for the tests: real recipes with their published configs, and builds of small Python steps."""

from __future__ import annotations

import sys
from pathlib import Path

from compile.plan import Options, make_plan, settle
from compile.steps import Plan, Step
from compile.toolchain import Runner
from exporters.spec import DecoderSpec, from_config
from recipes.recipe import Recipe, load, origin


def recipe_and_spec(name: str) -> tuple[Recipe, DecoderSpec]:
    recipe = load(name)
    return recipe, from_config(recipe.architecture, recipe.config, origin(name))


def options(recipe: Recipe, **changes: object) -> Options:
    return settle(recipe, {"sample": False, **changes})


def recipe_plan(name: str, **changes: object) -> Plan:
    recipe, spec = recipe_and_spec(name)
    return make_plan(recipe, spec, Path("/models") / name, Path("/builds"), options(recipe, **changes))


RUNNERS = {"exporter": Runner((str(Path(sys.executable).parent),)), "compiler": Runner(identity="one")}


def step(
    name: str,
    code: str,
    *inputs: str,
    outputs: tuple[str, ...] = ("out.txt",),
    words: tuple[str, ...] = (),
    **more: object,
) -> Step:
    """A step that runs Python `code` in its folder, with `words` behind."""
    command = (sys.executable, "-c", code, *words)
    return Step(name, (command,), inputs, outputs, "exporter", **more)  # type: ignore[arg-type]


def small_plan(folder: Path, *steps: Step) -> Plan:
    return Plan(folder, steps, (), 0)


def write(text: str) -> str:
    """Code of a step that leaves a mark of each run beside the build folder, then writes out.txt."""
    mark = "import os; open(os.path.join('..', '..', 'runs'), 'a').write(os.path.basename(os.getcwd()) + '\\n')"
    return f"{mark}; open('out.txt', 'w').write({text})"
