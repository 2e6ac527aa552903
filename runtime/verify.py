"""The two upper rungs of the parity ladder: each net of a bmodel against ONNX Runtime, and its tokens against
Hugging Face. The reference files are made by the exporter; nothing is computed here but the bmodel's side.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from contract import graphs
from contract.errors import UserError
from contract.graphs import GraphSpec
from contract.ladder import CHIP, MIN_AGREEMENT, MIN_COSINE, MIN_POSITIONS, PICTURES, TOKENS, Score, resolution, weakest
from contract.vision import load
from runtime import simulator
from runtime.engine import Engine
from runtime.half import Array
from runtime.nets import PREFILL, contract

Progress = Callable[[str], None]
Tensors = dict[str, Array]

# Nets whose outputs have one row per position; only the valid ones mean anything.
_PADDED = (graphs.EMBEDDING, graphs.VIT, *PREFILL)


def climb(bmodel: Path, chip: str, reference_dir: Path, modes: Mapping[str, str], on_progress: Progress) -> list[Score]:
    """Both rungs. On a simulator side by side, each on a core of its own; on a board one after the other.

    `modes`: for nets that hold weights the mode by which each is judged; all else is judged by the weakest of them.
    """
    mode = weakest(modes.values())
    rungs: tuple[Callable[..., list[Score]], ...] = (partial(chip_scores, modes=modes), token_scores)
    cores: list[int | None] = list(os.sched_getaffinity(0))
    if not simulator.find(chip).simulated or len(cores) < 2:
        with Engine(bmodel, chip) as engine:
            return [score for rung in rungs for score in rung(engine, reference_dir, mode, on_progress)]

    def alone(rung: Callable[..., list[Score]], core: int | None) -> list[Score]:
        with Engine(bmodel, chip, core=core) as engine:
            return rung(engine, reference_dir, mode, on_progress)

    with ThreadPoolExecutor(2) as pool:
        climbing = [pool.submit(alone, rung, core) for rung, core in zip(rungs, cores, strict=False)]
        return [score for rung in climbing for score in rung.result()]


def chip_scores(
    engine: Engine,
    reference_dir: Path,
    mode: str,
    on_progress: Progress = lambda net: None,
    modes: Mapping[str, str] | None = None,
) -> list[Score]:
    """One Score per net of the bmodel, in its order: the worst over outputs and steps.

    Metric cosine; agreement (share of equal ids) for heads that end in a token id. A net without a reference fails.
    Ids are judged by `mode`, cosines by the net's own of `modes`, where it has one.
    UserError for a reference that does not fit the bmodel.
    """
    scores = []
    for net, spec in engine.nets.items():
        on_progress(net)
        own = (modes or {}).get(net, mode)
        path = reference_dir / f"{net}.npz"
        if not path.is_file():
            scores.append(Score(CHIP, net, spec.layer, "cosine", float("nan"), MIN_COSINE[own], "no reference"))
            continue
        with np.load(path, allow_pickle=False) as arrays:
            scores.append(_net_score(engine, spec, dict(arrays), mode, own, str(path)))
    return scores


def token_scores(
    engine: Engine, reference_dir: Path, mode: str, on_progress: Progress = lambda net: None
) -> list[Score]:
    """One Score: the share of teacher-forced positions at which bmodel and Hugging Face choose the same token.

    Positions whose two likeliest tokens are too near for the mode's half type to tell apart are left out. Those that
    are missing from MIN_POSITIONS then count as different, unless the bmodel itself has fewer.
    """
    on_progress("tokens")
    reference = _tokens(reference_dir / "tokens.json")
    expected, gaps = reference["expected"], reference["gap"]
    prompt, shown = reference["prompt"], reference_dir / PICTURES
    pictures = load(shown) if shown.is_file() else None
    with engine.session() as session:
        if session.history and len(prompt) > 1 and pictures is None:
            session.prefill(prompt[: len(prompt) // 2])  # so that what follows goes through the nets with a history
        chosen = [session.resume(prompt, pictures).token]
        for token in reference["forced"]:
            if session.full:
                break
            on_progress(f"token {len(chosen) + 1} of {len(expected)}")
            chosen.append(session.decode(token).token)
        enough = min(MIN_POSITIONS, session.seq_length)
    clear = [gap > resolution(top, mode) for gap, top in zip(gaps, reference["top"], strict=True)]
    counted = [j for j in range(len(chosen)) if clear[j]]
    differing = [j for j in counted if chosen[j] != expected[j]]
    agreeing, positions = len(counted) - len(differing), max(sum(clear), enough)
    detail = f"{agreeing} of {positions} positions"
    if ties := len(expected) - sum(clear):
        detail += f", {ties} near-ties left out"
    if len(counted) < positions:
        detail += f", {len(counted)} of which could be run"
    if differing:
        first = differing[0]
        detail += f"; first difference at {first}, where the two likeliest lie {gaps[first]:.3g} apart"
    return [Score(TOKENS, "model", None, "agreement", agreeing / positions, MIN_AGREEMENT[mode], detail)]


def _tokens(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if {len(data["forced"]) + 1, len(data["gap"]), len(data["top"])} != {len(data["expected"])}:
            raise ValueError("lengths differ")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"no token reference ({error})", str(path), "build again") from error
    return data


def _net_score(engine: Engine, spec: GraphSpec, arrays: Tensors, mode: str, own: str, where: str) -> Score:
    comparisons = []
    for step, given, wanted, valid in _steps(arrays, where):
        got = engine.run(spec.name, given)
        if missing := wanted.keys() - got.keys():
            raise UserError(f"output {min(missing)!r} is unknown to the bmodel", where, "build again")
        rows = valid if spec.kind in _PADDED else None
        comparisons += [
            (value, f"{name}, step {step}" if step else name) for name, value in _compare(spec, got, wanted, rows)
        ]
    ids_only = all(t.dtype == graphs.INT32 for t in spec.outputs)
    metric, bar = ("agreement", MIN_AGREEMENT[mode]) if ids_only else ("cosine", MIN_COSINE[own])
    if ids_only:
        equal = float(np.mean([value for value, _ in comparisons]))
        return Score(CHIP, spec.name, spec.layer, metric, equal, bar, f"{len(comparisons)} token ids")
    # NaN is the worst of all, and min() would not see that.
    worst, detail = min(comparisons, key=lambda c: (not np.isnan(c[0]), c[0]))
    return Score(CHIP, spec.name, spec.layer, metric, worst, bar, detail)


def _steps(arrays: Tensors, where: str) -> Iterator[tuple[str, Tensors, Tensors, int | None]]:
    """(step, inputs, expected outputs, valid positions) of each step; step is "" where there is only one."""
    steps: dict[str, dict[str, Tensors]] = defaultdict(lambda: {"in": {}, "out": {}})
    for key, values in arrays.items():
        if parsed := re.fullmatch(r"(?:(\d+)\.)?(in|out)\.(.+)", key):
            steps[parsed[1] or ""][parsed[2]][parsed[3]] = values
    if not steps or not all(s["in"] and s["out"] for s in steps.values()):
        raise UserError("not a reference of a net", where, "build again")
    valid = int(arrays["valid"]) if "valid" in arrays else None
    for step, tensors in sorted(steps.items(), key=lambda item: int(item[0] or 0)):
        yield step, tensors["in"], tensors["out"], valid


def _compare(spec: GraphSpec, got: Mapping[str, Array], wanted: Tensors, valid: int | None) -> list[tuple[str, float]]:
    """(output, cosine or share of equal ids) of one run."""
    if spec.kind == graphs.SAMPLE_HEAD:
        probabilities, ids = (t.name for t in contract(spec.kind).outputs)
        # Two candidates of almost equal probability may change places; what counts is who gets how much.
        known = np.union1d(got[ids], wanted[ids])
        return [(probabilities, _cosine(*(_shares(side[ids], side[probabilities], known) for side in (got, wanted))))]
    results = []
    for name, reference in wanted.items():
        a, b = (_real(np.asarray(x), spec, valid) for x in (got[name], reference))
        if a.shape != b.shape:
            raise UserError(f"{name} has shape {list(a.shape)}, its reference {list(b.shape)}", spec.name)
        whole = np.issubdtype(b.dtype, np.integer)
        results.append((name, float(np.mean(a == b)) if whole else _cosine(a, b)))
    return results


def _real(values: Array, spec: GraphSpec, valid: int | None) -> Array:
    """Without the rows that stand for padding."""
    if not valid:
        return values
    return values.reshape(-1, values.shape[-1])[:valid][None] if spec.kind == graphs.VIT else values[:, :valid]


def _shares(ids: Array, values: Array, known: Array) -> Array:
    """The values in the order of the `known` ids, 0 for those that `ids` lacks."""
    shares = np.zeros(known.size)
    np.add.at(shares, np.searchsorted(known, np.asarray(ids).reshape(-1)), np.asarray(values).reshape(-1))
    return shares


def _cosine(a: Array, b: Array) -> float:
    """Of two tensors [N, positions, ...], the mean over positions, or of two [N, n] over N.

    Position by position, each weighing as much as it is long, but no more than the median one. Trained models put
    their largest values, by far, on the first position, which would drown all others; and make the same position's v
    so small that rounding turns it (to 0.947 in stories15M) without mattering. NaN where a position holds a NaN.
    """
    rows = math.prod(b.shape[: min(b.ndim - 1, 2)])
    x, y = (np.asarray(v, np.float64).reshape(rows, -1) for v in (a, b))
    sizes = np.linalg.norm(y, axis=1)
    weights = np.minimum(sizes, np.median(sizes))
    with np.errstate(invalid="ignore", divide="ignore"):
        each = np.sum(x * y, axis=1) / (np.linalg.norm(x, axis=1) * sizes)
        return float(np.sum(each * weights) / np.sum(weights))
