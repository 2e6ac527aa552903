"""Builds of tiny checkpoints with one option each, by the command line."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.end_to_end.test_line import RECIPE, hf2bmodel, manifest
from tests.runtime.conftest import convert, talking_checkpoint  # noqa: F401  (fixtures)

Made = Callable[..., Path]
Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The folder of a build of `checkpoint` with these options, whose ladder was climbed, whatever came of it."""
    out = tmp_path_factory.mktemp("out")

    def run(checkpoint: Path, *options: str) -> Path:
        model_type = json.loads((checkpoint / "config.json").read_text())["model_type"]
        (out / "tiny.yaml").write_text(RECIPE.format(architecture=model_type))
        words = ("--model", str(checkpoint), "--out", str(out / checkpoint.name), *options)
        done = hf2bmodel("build", str(out / "tiny.yaml"), *words)
        said = re.search(r"^(?:verified|unverified|failed): (\S+)/[^/]+\.bmodel", done.stdout, re.MULTILINE)
        assert said, done.stderr
        return Path(said[1])

    return run


@pytest.fixture(scope="session")
def gaussian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qwen2 whose weights lie on no grid, so that the quality of a quantiser shows."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tiny.make("qwen2", tmp_path_factory.mktemp("checkpoints") / "gaussian")
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(folder / "model.safetensors")
    drawn = {
        n: 0.1 * torch.randn(t.shape, generator=generator).to(t.dtype) if t.dim() > 1 else t for n, t in tensors.items()
    }
    save_file(drawn, folder / "model.safetensors", {"format": "pt"})
    return folder


def cosines(folder: Path) -> dict[str, float]:
    """By net, how near the chip came to ONNX Runtime, as the build's ladder found it."""
    scores = manifest(folder)["parity"]
    return {s["net"]: s["value"] for s in scores if s["rung"] == "chip" and s["metric"] == "cosine"}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A table of the options: how many of each one's tests passed."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            found = re.match(r"tests/options/test_(\w+)\.py", report.nodeid)
            if found and (report.when == "call" or outcome != "passed"):
                counts[found[1].upper()][outcome] += 1
    if counts:
        terminalreporter.write_line("option       tests")
    for option, outcomes in sorted(counts.items()):
        terminalreporter.write_line(f"{option:<12} " + ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items()))
