"""What a user asked for, to a plan that nothing is known to stand against.

Everything that can be refused is refused here, before any work: first what needs no checkpoint, then what needs its
configuration, then its weight files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compile import deploy, estimate, plan, toolchain
from compile import script as scripts
from contract.errors import UserError, one_of
from contract.modes import TOOLCHAINS, VERIFY
from exporters import spec as specs
from exporters.architecture import find
from recipes.recipe import Recipe, load, origin

Say = Callable[[str], None]
UNKNOWN = Path("/path/to/checkpoint")


@dataclass(frozen=True)
class Request:
    """What the user asked for; None where the recipe decides."""

    recipe: str
    model: str | None
    out: Path
    mode: str | None
    chip: str
    devices: int
    seq_length: int | None
    head: str | None
    group_size: int | None
    jobs: int
    toolchain: str
    verify: str
    trust_remote_code: bool = False
    plan_only: bool = False

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Request:
        """UserError for what is no number, or no way to verify."""
        if args.verify not in VERIFY:
            raise UserError(f'"{args.verify}" is unknown', "--verify", f"use {one_of(VERIFY)}")
        return cls(
            recipe=args.recipe,
            model=args.model,
            out=args.out,
            mode=args.mode,
            chip=args.chip,
            devices=_positive(args.devices, "--devices") or 1,
            seq_length=_positive(args.seq_length, "--seq-length"),
            head=args.head,
            group_size=_positive(args.group_size, "--group-size"),
            jobs=_positive(args.jobs, "--jobs") or 1,
            toolchain=args.toolchain,
            verify=args.verify,
            trust_remote_code=args.trust_remote_code,
            plan_only=args.plan,
        )


def _positive(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise UserError(f'"{text}" is no positive whole number', option, "give one, such as 512")
    return int(text)


@dataclass(frozen=True)
class Prepared:
    """A build that nothing is known to stand against."""

    request: Request
    recipe: Recipe
    model_dir: Path
    spec: specs.DecoderSpec
    options: plan.Options
    plan: plan.Plan
    toolchain: toolchain.Toolchain


def prepare(request: Request, say: Say) -> Prepared:
    """Check everything, fetch the checkpoint if it is not here, plan. UserError for whatever is wrong."""
    from exporters import sources, trust
    from exporters.checkpoint import Checkpoint

    recipe = load(request.recipe)
    options = _options(request, recipe)
    plan.check_values(options)
    foretold = None if request.model else _foretold(recipe, origin(request.recipe))
    if foretold:  # refuse before anything is fetched what the published config refuses
        made = plan.make_plan(recipe, foretold, UNKNOWN, request.out, options)
    tools = _toolchain(request, made.folder if foretold else request.out)
    model_dir = sources.standing(recipe, request.model, sources.cache_folder())
    if request.plan_only and not model_dir:
        if not foretold:
            raise UserError("the recipe has no config", request.recipe, "give MODEL=/path/to/checkpoint")
        say(f"the checkpoint is not here: {UNKNOWN} stands for it")
        return Prepared(request, recipe, UNKNOWN, foretold, options, made, tools)
    if not model_dir:
        if foretold:
            estimate.check_disk(made.folder, made.disk)
        model_dir = sources.resolve(recipe, request.model, sources.cache_folder(), say)
    spec = specs.read(model_dir)
    made = plan.make_plan(recipe, spec, model_dir, request.out, options)
    architecture = find(spec.model_type)
    if architecture.remote:
        trust.check_allowed(model_dir, specs.read_config(model_dir), request.trust_remote_code)
    Checkpoint(model_dir).require(architecture.required_weights(spec))
    return Prepared(request, recipe, model_dir, spec, options, made, tools)


def _foretold(recipe: Recipe, where: str) -> specs.DecoderSpec | None:
    """What the recipe's `config` promises, before the checkpoint is here. UserError for a missing key."""
    return specs.from_config(recipe.architecture, recipe.config, where) if recipe.config else None


def _options(request: Request, recipe: Recipe) -> plan.Options:
    return plan.Options(
        mode=request.mode or recipe.mode,
        chip=request.chip,
        devices=request.devices,
        seq_length=request.seq_length or recipe.seq_length,
        head=request.head or recipe.head,
        group_size=request.group_size or recipe.group_size,
        trust_remote_code=request.trust_remote_code,
    )


def _toolchain(request: Request, folder: Path) -> toolchain.Toolchain:
    """As found; a plan that is only printed may be made where there is none, and takes the tools from PATH then."""
    try:
        return toolchain.find(request.toolchain, folder)
    except UserError:
        if not request.plan_only or request.toolchain not in TOOLCHAINS:
            raise
        return toolchain.Toolchain("path", toolchain.Runner(env=deploy.ENVIRONMENT), None)


def script(prepared: Prepared) -> str:
    """The plan as a shell script."""
    return scripts.render(
        prepared.plan, {plan.EXPORTER: toolchain.exporter(), plan.COMPILER: prepared.toolchain.runner}
    )
