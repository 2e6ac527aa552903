"""`build` and `verify`: a recipe to a verified bmodel, and the ladder over a bmodel that stands."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from contract.ladder import RUNGS, Score, score_from_json


def add_parsers(subparsers: Any) -> None:
    """Registers both commands; each sets `run`, a function of the parsed arguments that gives the exit code."""
    build = subparsers.add_parser("build", help="make a verified bmodel from a recipe")
    build.add_argument("recipe", help="a name in recipes/, or the path of a .yaml file")
    build.add_argument("--model", help="checkpoint directory or hub id, instead of the recipe's own source")
    build.add_argument("--mode", help="int4, int8, bf16 or f16")
    build.add_argument("--devices", default="1", help="chips to split the model over: 1, 2, 4 or 8")
    build.add_argument("--chip", default="bm1684x", help="bm1684x or bm1688")
    build.add_argument("--seq-length", help="positions the bmodel holds, prompt and answer together")
    build.add_argument("--head", help="top1 (a token id) or logits (for sampling)")
    build.add_argument("--group-size", help="input channels per scale in int4")
    build.add_argument("--out", type=Path, default=Path("out"), help="folder of the build's folder (default: out)")
    build.add_argument("--jobs", default=str(os.cpu_count() or 1), help="steps at once (default: the cores)")
    build.add_argument("--toolchain", default=os.environ.get("TOOLCHAIN") or "auto", help="auto, path, managed, docker")
    build.add_argument("--verify", default="full", help="full; host: without the simulator; none")
    build.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the checkpoint")
    build.add_argument("--plan", action="store_true", help="print the steps as a shell script and run nothing")
    build.set_defaults(run=_build)
    verify = subparsers.add_parser("verify", help="climb the parity ladder again over a build")
    verify.add_argument("dir", type=Path, metavar="DIR", help="the folder that `build` made")
    verify.add_argument("--json", action="store_true", help="print the scores as JSON")
    verify.set_defaults(run=_verify)


def _build(args: argparse.Namespace) -> int:
    from cli import pipeline
    from cli.prepare import Request, prepare, script
    from compile.executor import StepFailed

    prepared = prepare(Request.from_args(args), _say)
    if args.plan:
        print(script(prepared), end="")
        return 0
    try:
        built = pipeline.run(prepared)
    except StepFailed as failure:
        print(f"hf2bmodel: {failure}\n  {failure.command}", file=sys.stderr)
        print("\n".join(f"  | {line}" for line in failure.tail), file=sys.stderr)
        return 1
    return _conclude(built, prepared.request.verify)


def _conclude(folder: Path, verify: str) -> int:
    from cli import pipeline

    manifest = pipeline.judge(folder, verify, _say)
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
    from cli import pipeline

    pipeline.climb_again(args.dir, _say)
    manifest = pipeline.judge(args.dir, "full", _say)
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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
