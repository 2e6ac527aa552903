"""What a user asked for, to a plan that nothing is known to stand against.

Everything that can be refused is refused here, before any work: first what needs no checkpoint, then what needs its
configuration, then its weight files.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli import forecast
from compile import cluster, deploy, estimate, footprint, plan, quantization, steps, toolchain, vendor, vision
from compile import script as scripts
from contract.errors import UserError
from contract.options import OPTIONS
from exporters import adapter, quantized
from exporters import spec as specs
from exporters.architecture import find
from recipes.recipe import Recipe, load, origin

Say = Callable[[str], None]
UNKNOWN = Path("/path/to/checkpoint")


@dataclass(frozen=True)
class Request:
    """What the user asked for. `chosen`: values by the names of contract.options; None where nothing was said."""

    recipe: str
    chosen: Mapping[str, Any]
    plan_only: bool = False

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Request:
        """UserError for a value that an option does not take."""
        chosen: dict[str, Any] = {}
        for option in OPTIONS:
            said = getattr(args, option.name)
            chosen[option.name] = option.parse(said, option.flag) if isinstance(said, str) else said
        return cls(args.recipe, chosen, args.plan)

    def __getitem__(self, name: str) -> Any:
        """Of options that no recipe sets: what was said, else what is usual."""
        said = self.chosen.get(name)
        if said is None and name == "jobs":
            return os.cpu_count() or 1
        if said is None and name == "toolchain":
            said = os.environ.get("TOOLCHAIN") or None
        return said if said is not None else next(option.default for option in OPTIONS if option.name == name)


@dataclass(frozen=True)
class Prepared:
    """A build that nothing is known to stand against. `grid`: bits of the levels that the checkpoint's layers keep."""

    request: Request
    recipe: Recipe
    model_dir: Path
    spec: specs.DecoderSpec
    options: plan.Options
    plan: steps.Plan
    toolchain: toolchain.Toolchain
    grid: int = 0

    def carried_out(self) -> steps.Plan:
        """The plan as it runs: without the lower rungs where nothing is verified, and keeping all files with KEEP."""
        made = self.plan
        if self.request["verify"] == "none":
            made = replace(made, steps=tuple(step for step in made.steps if step.name != plan.PARITY))
        return made.keeping() if self.request["keep"] else made


def prepare(request: Request, say: Say) -> Prepared:
    """Check everything, fetch the checkpoint if it is not here, plan. UserError for whatever is wrong."""
    from exporters import grids, sources, trust
    from exporters.checkpoint import Checkpoint

    recipe = load(request.recipe)
    _executor(request)
    most = forecast.device_memory(request)
    options, trusted, out = _settled(recipe, request), request["trust_remote_code"], Path(request["out"])
    foretold = None if request["model"] else _foretold(recipe, origin(request.recipe))
    if foretold:  # refuse before anything is fetched what the published config refuses
        options = vision.settle(foretold, options)
        made = _plan(request, recipe, foretold, UNKNOWN, options)
        forecast.check_memory(most, forecast.Sizes(recipe, foretold, options))
    tools = _toolchain(request, made.folder if foretold else out)
    model_dir = sources.standing(recipe, request["model"], sources.cache_folder())
    if not model_dir:
        _vendor(options, tools)
    if request.plan_only and not model_dir:
        if not foretold:
            raise UserError("the recipe has no config", request.recipe, "give MODEL=/path/to/checkpoint")
        say(f"the checkpoint is not here: {UNKNOWN} stands for it")
        return Prepared(request, recipe, UNKNOWN, foretold, options, made, tools)
    if not model_dir:
        if recipe.remote_code and not request["model"]:
            trust.check_source(recipe.source, trusted)
        if foretold:
            estimate.check_disk(made.folder, made.disk)
        model_dir = sources.resolve(recipe, request["model"], sources.cache_folder(), say)
    spec = specs.read(model_dir)
    options, grid = _grid(model_dir, spec, vision.settle(spec, options), request.chosen.get("group_size"))
    made = _plan(request, recipe, spec, model_dir, options, grid)
    forecast.check_memory(most, forecast.Sizes(recipe, spec, options, grid))
    architecture = find(spec.model_type)
    if architecture.remote:
        trust.check_allowed(model_dir, specs.read_config(model_dir), trusted)
    checkpoint = Checkpoint(model_dir, Path(options.adapter) if options.adapter else None)
    checkpoint.require(architecture.required_weights(spec))
    if grid:
        grids.check(checkpoint)
    _vendor(options, tools)
    return Prepared(request, recipe, model_dir, spec, options, made, tools, grid)


def _vendor(options: plan.Options, tools: toolchain.Toolchain) -> None:
    """UserError where llm_convert is asked for and lacks what it needs: before anything is fetched for it, and behind
    what it would fail on all the same."""
    if options.route == vendor.ROUTE:
        vendor.require(tools.runner)


def _plan(
    request: Request, recipe: Recipe, spec: specs.DecoderSpec, model_dir: Path, options: plan.Options, grid: int = 0
) -> steps.Plan:
    """On Ray, where a step may run twice, the parts of a bmodel stay until it is whole."""
    out, trusted = Path(request["out"]), request["trust_remote_code"]
    made = plan.make_plan(recipe, spec, model_dir, out, options, trusted, grid)
    parts = footprint.footprint(recipe, spec, options, made.nets, grid).file if request["executor"] == "ray" else 0
    whole = (replace(step, disk=step.disk + parts) if step.takes else step for step in made.steps)
    return replace(made, steps=tuple(whole), disk=made.disk + parts)


def _executor(request: Request) -> None:
    """UserError where Ray is asked for and not installed, or told where it is and not asked for."""
    if request["executor"] == "ray":
        cluster.require()
    elif request["address"]:
        raise UserError("an address of a cluster, and steps run here", "--address", "give --executor ray as well")


def _settled(recipe: Recipe, request: Request) -> plan.Options:
    """Values of the options, of which paths are absolute. UserError for an adapter that is not there."""
    options = plan.settle(recipe, request.chosen)
    if options.adapter is None:
        return options
    folder = Path(options.adapter).expanduser().absolute()
    adapter.file(folder)
    return replace(options, adapter=str(folder))


def _grid(
    model_dir: Path, spec: specs.DecoderSpec, options: plan.Options, chosen: int | None
) -> tuple[plan.Options, int]:
    """What a quantised checkpoint does to the options, and `grid` (compile.plan). UserError for one that cannot be."""
    scheme = quantized.read(specs.read_config(model_dir), str(model_dir / "config.json"))
    if scheme and find(spec.model_type).remote:
        what = "a quantised checkpoint with modeling code of its own is not read"
        raise UserError(what, str(model_dir), quantized.FLOATS)
    settled, grid = (
        quantization.keep_grid(spec, options, scheme.bits, scheme.group_size, chosen) if scheme else (options, 0)
    )
    if options.route == vendor.ROUTE:
        vendor.check_config(specs.read_config(model_dir))
        vendor.check_checkpoint(spec, options, scheme)
    if grid and options.adapter:
        what = "an adapter takes the weights of a quantised checkpoint off their grid"
        raise UserError(what, "--adapter", "use MODE=int8 or bf16, or the checkpoint in float16 or bfloat16")
    return settled, grid


def _foretold(recipe: Recipe, where: str) -> specs.DecoderSpec | None:
    """What the recipe's `config` promises, before the checkpoint is here. UserError for a missing key."""
    return specs.from_config(recipe.architecture, recipe.config, where) if recipe.config else None


def _toolchain(request: Request, folder: Path) -> toolchain.Toolchain:
    """As found; a plan that is only printed may be made where there is none, and takes the tools from PATH then."""
    try:
        return toolchain.find(request["toolchain"], folder)
    except UserError:
        if not request.plan_only:
            raise
        return toolchain.Toolchain("path", toolchain.Runner(env=deploy.ENVIRONMENT), None)


def script(prepared: Prepared) -> str:
    """The plan as a shell script."""
    return scripts.render(
        prepared.plan, {steps.EXPORTER: toolchain.exporter(), steps.COMPILER: prepared.toolchain.runner}
    )
