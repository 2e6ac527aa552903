"""The verdict on a build folder: the rungs of the parity ladder, and what manifest and report say of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from cli.prepare import Say
from compile import digest, exporter, guard, plan, report
from contract import ladder
from contract import manifest as manifests
from contract.errors import UserError
from contract.graphs import EMBEDDING, EMBEDDING_CACHE, EMBEDDING_FILE, FLOAT16
from contract.ladder import Score
from contract.manifest import Manifest
from runtime import simulator

DAMAGED = "{} is not the one that the build made (its SHA-256 is another): build again"


def judge(folder: Path, verify: str, say: Say) -> Manifest:
    """Climb the rungs that `verify` asks for, and write the verdict into manifest and report."""
    manifest = manifests.read(folder)
    with guard.locked(folder):
        return _judge(folder, manifest, verify, say)


def _judge(folder: Path, manifest: Manifest, verify: str, say: Say) -> Manifest:
    scores: list[Score] = []
    damaged = _damaged(folder, manifest) if verify == "full" else ""
    if damaged:  # said first, since the simulator may not survive it
        manifest.status, manifest.reason = manifests.FAILED, damaged
        manifests.write(manifest, folder)
    unrun = simulator.unsimulated(manifest.options["chip"]) if verify == "full" else ""
    if unrun:
        say(f"{unrun}: the ladder ends with the host's rungs")
        verify = "host"
    if verify != "none":
        scores = _host_scores(folder)
    if verify == "full":
        try:
            scores += _chip_scores(folder, manifest, say)
        except (UserError, RuntimeError):
            if not damaged:
                raise
    failure = ladder.first_failure(scores)
    manifest.parity = [score.as_json() for score in scores]
    manifest.status = manifests.FAILED if failure or damaged else manifests.VERIFIED
    manifest.reason = "; ".join([*([_reason(failure)] if failure else []), *([damaged] if damaged else [])])
    if verify != "full" and not failure and not damaged:
        manifest.status = manifests.UNVERIFIED
        manifest.reason = "the bmodel itself was not run" if verify == "host" else "verification was off"
        manifest.reason += f": {unrun}" if unrun else ""
    manifests.write(manifest, folder)
    report.write_report(manifest, folder)
    return manifest


def _damaged(folder: Path, manifest: Manifest) -> str:
    """Says which of the published files is another; empty where none is."""
    made = {manifest.bmodel: manifest.sha256, **manifest.beside}
    odd = [f for f, known in made.items() if known and (folder / f).is_file() and digest.sha256(folder / f) != known]
    return DAMAGED.format("the bmodel" if odd[0] == manifest.bmodel else odd[0]) if odd else ""


def climb_again(folder: Path, say: Say) -> None:
    """Run the host's rungs once more, where the checkpoint and the ONNX are still here."""
    manifest = manifests.read(folder)
    with guard.locked(folder):
        _climb_again(folder, manifest, say)


def _climb_again(folder: Path, manifest: Manifest, say: Say) -> None:
    model, work = Path(manifest.model["path"]), folder / "work"
    if not model.is_dir() or not (work / plan.TRACE).is_dir():
        say("checkpoint or traced graphs are not here: the rungs of the host stand as the build found them")
        return
    say("comparing Hugging Face, patched torch and ONNX Runtime")
    part, log = work / f"{plan.PARITY}.part", folder / "logs" / f"{plan.PARITY}.log"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    options = manifest.options
    command = exporter.parity(str(model), options, options["prompt"], options["trust_remote_code"])
    with log.open("w") as out:
        done = subprocess.run(
            [sys.executable, *command[1:]], cwd=part, stdout=out, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise UserError("the comparison on the host failed", str(log), "read the log's last lines")
    (work / plan.PARITY).mkdir(exist_ok=True)  # a build without verification has none
    for made in part.iterdir():  # step.json, the step's identity, stays as it was
        target = work / plan.PARITY / made.name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        made.rename(target)
    part.rmdir()


def _host_scores(folder: Path) -> list[Score]:
    path = folder / "work" / plan.PARITY / "parity.json"
    if path.is_file():
        return [ladder.score_from_json(s) for s in json.loads(path.read_text(encoding="utf-8"))]
    known = map(ladder.score_from_json, manifests.read(folder).parity)
    return [score for score in known if score.rung in (ladder.PATCHED, ladder.ONNX)]


def _chip_scores(folder: Path, manifest: Manifest, say: Say) -> list[Score]:
    from runtime import verify

    reference = folder / "work" / plan.PARITY / "reference"
    words = {name: net["quantize"] for name, net in manifest.nets.items()}
    modes = {name: ladder.judged_as(word) for name, word in words.items() if word != "F32"}  # F32: no weights
    if EMBEDDING_FILE in manifest.beside:
        mode = "f16" if manifest.geometry["half"] == FLOAT16 else "bf16"
        modes |= dict.fromkeys((EMBEDDING, EMBEDDING_CACHE), mode)
    if not reference.is_dir():
        raise UserError("no reference to compare with", str(reference), "build again, without --verify none")
    say("running the bmodel against ONNX Runtime, net by net, then token by token")
    with Console(stderr=True).status("starting the engine") as status:
        return verify.climb(folder / manifest.bmodel, manifest.options["chip"], reference, modes, status.update)


def _reason(failure: Score) -> str:
    where = failure.net if failure.layer is None else f"{failure.net} (layer {failure.layer})"
    return f"rung {failure.rung}: {where} has {failure.metric} {failure.value:.6g}, the bar is {failure.bar:.6g}"
