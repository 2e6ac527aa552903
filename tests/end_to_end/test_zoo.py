"""Every architecture in every mode up the ladder: tiny random checkpoints with each feature on, through the real line.

Weights lie on a grid that int4 holds exactly (tests/tiny.py), so the quantised modes climb to the tokens as bf16 does.
f16 has bf16's graphs: its nets are compared on the simulator one by one, without the tokens.
What comes out is compared with tests/zoo.json, from which the README's table is made. After a wanted change:
UPDATE_ZOO=1 make test-zoo, then scripts/readme_tables.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract.ladder import CHIP, ONNX, PATCHED, RUNGS, TOKENS, score_from_json
from contract.modes import MODES
from exporters.architecture import find
from runtime import verify
from runtime.engine import Engine
from tests import remote_models, remote_vision, tiny, vision_models
from tests.end_to_end.test_line import RECIPE, hf2bmodel

pytestmark = pytest.mark.toolchain
KNOWN = Path(__file__).parent.parent / "zoo.json"
# The fewer tokens, the fewer near-ties between the likeliest two, which prove nothing.
VOCABULARY = {"vocab_size": 128, "padded_vocab_size": 128}
CHIP_ONLY = ("f16",)
CASES = [*tiny.CASES, *remote_models.CASES, *vision_models.CASES, *remote_vision.CASES]
# The largest picture where the grid is free: small, and larger than the ladder's own, so that a launch has padding.
PIXELS = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "glm4v"), "112,168"),
    **dict.fromkeys(("minicpmv", "minicpmo"), "112,140"),
    "qwen3_vl": "128,192",
}
Make = Callable[[str], tuple[Path, Path]]
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A case's checkpoint and the folder of its builds, whose modes share what they can."""
    folders: dict[str, tuple[Path, Path]] = {}

    def get(case: str) -> tuple[Path, Path]:
        if case not in folders:
            folder = tmp_path_factory.mktemp(case)
            if case in vision_models.CASES:
                vision_models.bare(case, folder / "checkpoint")
            elif case in remote_vision.CASES:
                remote_vision.make(case, folder / "checkpoint")
            else:
                (tiny if case in tiny.CASES else remote_models).make(case, folder / "checkpoint", **VOCABULARY)
            folders[case] = folder / "checkpoint", folder / "out"
        return folders[case]

    return get


@pytest.mark.parametrize("mode", ["bf16", *(mode for mode in MODES if mode != "bf16")])
@pytest.mark.parametrize("case", CASES)
def test_a_case_climbs(case: str, mode: str, made: Make, tmp_path: Path, record_property: Record) -> None:
    checkpoint, out = made(case)
    built = build(checkpoint, out, tmp_path, mode)
    scores = [score_from_json(s) for s in json.loads((built / "manifest.json").read_text())["parity"]]
    rungs = (PATCHED, ONNX, CHIP, TOKENS)
    if mode in CHIP_ONLY:
        rungs = (PATCHED, ONNX, CHIP)
        with Engine(next(built.glob("*.bmodel")), "bm1684x") as engine:
            scores += verify.chip_scores(engine, built / "work/parity/reference", mode)
    found = {rung: [s for s in scores if s.rung == rung] for rung in rungs}
    results = {rung: "passed" if all(s.passed for s in of) else "failed" for rung, of in found.items() if of}
    # Gathered and printed when the run is over (conftest.py).
    record_property("zoo", (case, mode, results))
    assert all(found.values()), "a rung was not climbed"
    assert [s for s in scores if not s.passed] == []
    assert os.environ.get("UPDATE_ZOO") or known()[case][mode] == results, "the README's table says something else"


def build(checkpoint: Path, out: Path, scratch: Path, mode: str) -> Path:
    """The build's folder. A failed ladder is told by its scores."""
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    recipe = scratch / "tiny.yaml"
    recipe.write_text(RECIPE.format(architecture=config["model_type"]))
    trust = ["--trust-remote-code"] if find(config["model_type"]).remote else []
    rungs = "host" if mode in CHIP_ONLY else "full"
    pixels = ("--max-pixels", PIXELS[config["model_type"]]) if config["model_type"] in PIXELS else ()
    words = ("--model", str(checkpoint), "--out", str(out), "--mode", mode, "--verify", rungs, *trust, *pixels)
    done = hf2bmodel("build", str(recipe), *words)
    assert done.returncode in (0, 1), done.stderr
    return next(out.glob(f"tiny_{mode}_*"))


def known() -> dict[str, dict[str, dict[str, str]]]:
    """By case and mode, what came of each rung when the README's table was made."""
    found: dict[str, dict[str, dict[str, str]]] = json.loads(KNOWN.read_text(encoding="utf-8"))
    return found


def test_the_readme_has_every_case_in_every_mode() -> None:
    assert {case: sorted(modes) for case, modes in known().items()} == {case: sorted(MODES) for case in CASES}
    assert all(set(rungs) <= set(RUNGS) for modes in known().values() for rungs in modes.values())
