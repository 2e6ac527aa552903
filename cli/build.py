"""`build` and `verify`: a recipe to a verified bmodel, and the ladder over a bmodel that stands."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.errors import one_of
from contract.ladder import RUNGS, Score, score_from_json
from contract.options import CHOICE, OPTIONS, SWITCH, Option

if TYPE_CHECKING:
    from cli.prepare import Prepared


def add_parsers(subparsers: Any) -> None:
    """Registers both commands; each sets `run`, a function of the parsed arguments that gives the exit code."""
    build = subparsers.add_parser("build", help="make a verified bmodel from a recipe")
    build.add_argument("recipe", help="a name in recipes/, or the path of a .yaml file")
    for option in OPTIONS:
        _add(build, option)
    build.add_argument("--plan", action="store_true", help="print the steps as a shell script and run nothing")
    build.set_defaults(run=_build)
    verify = subparsers.add_parser("verify", help="climb the parity ladder again over a build")
    verify.add_argument("dir", type=Path, metavar="DIR", help="the folder that `build` made")
    verify.add_argument("--json", action="store_true", help="print the scores as JSON")
    verify.set_defaults(run=_verify)


def _add(parser: argparse.ArgumentParser, option: Option) -> None:
    """Text stays text until Request reads it, so that what is wrong is said in our words."""
    values = f": {one_of(option.allowed)}" if option.kind == CHOICE else ""
    usual = f" (default: {option.default})" if option.default and option.kind != SWITCH else ""
    action: Any = argparse.BooleanOptionalAction if option.kind == SWITCH else "store"
    parser.add_argument(option.flag, action=action, default=None, help=f"{option.help}{values}{usual}")


def _build(args: argparse.Namespace) -> int:
    from cli.prepare import Request, prepare, script

    prepared = prepare(Request.from_args(args), say)
    if args.plan:
        from cli import forecast

        say(forecast.told(prepared))
        print(script(prepared), end="")
        return 0
    return carry_out(prepared)


def carry_out(prepared: Prepared) -> int:
    """Build, judge and say how it went. The exit code."""
    from cli import pipeline
    from compile.executor import StepFailed

    try:
        built = pipeline.run(prepared)
    except StepFailed as failure:
        lines = [f"hf2bmodel: {failure}", *([f"  {failure.command}"] if failure.command else [])]
        print("\n".join([*lines, *(f"  | {line}" for line in failure.tail)]), file=sys.stderr)
        return 1
    return _conclude(built, prepared.request["verify"])


def _conclude(folder: Path, verify: str) -> int:
    from cli import judge

    manifest = judge.judge(folder, verify, say)
    _summarise([score_from_json(s) for s in manifest.parity])
    print(f"{manifest.status}: {folder / manifest.bmodel}" + (f" ({manifest.reason})" if manifest.reason else ""))
    print(f"report: {folder / 'report.html'}")
    return 1 if manifest.status == "failed" else 0


def _summarise(scores: list[Score]) -> None:
    """A line for each rung: how many comparisons, and the one nearest to its bar or farthest beyond it."""
    for rung in RUNGS:
        own = [score for score in scores if score.rung == rung]
        if own:
            worst = max(own, key=lambda score: score.excess)
            mark = "pass" if worst.passed else "FAIL"
            count = f"{len(own)} comparison{'s' if len(own) > 1 else ''}"
            where = f"{worst.net}, {worst.detail}" if worst.detail else worst.net
            print(f"{mark}  {rung:8}{count}, worst {worst.metric} {worst.value:.6g}, bar {worst.bar:.6g} ({where})")


def _verify(args: argparse.Namespace) -> int:
    from cli import judge

    judge.climb_again(args.dir, say)
    manifest = judge.judge(args.dir, "full", say)
    if args.json:
        fields = {"status": manifest.status, "reason": manifest.reason, "scores": manifest.parity}
        print(json.dumps(fields, indent=1))
    else:
        for score in map(score_from_json, manifest.parity):
            mark = "pass" if score.passed else "FAIL"
            print(
                f"{mark}  {score.rung:8}{score.net:18}{score.metric:10}{score.value:<12.6g}bar {score.bar:<10.6g}"
                f"{score.detail}"
            )
        print(f"{manifest.status}" + (f": {manifest.reason}" if manifest.reason else ""))
    return 1 if manifest.status == "failed" else 0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
