"""The straight line: plan, build folder, ladder, manifest, report. It prints nothing itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from cli.prepare import Prepared, Say
from compile import executor, plan, profile, progress, report, toolchain
from compile.digest import Digests
from contract import ladder
from contract import manifest as manifests
from contract.errors import UserError
from contract.ladder import Score
from contract.manifest import Manifest
from contract.modes import MODES
from exporters import tokenizer

# Everything a tokenizer and a chat need, as the libraries name their files; never weights.
CONFIG_FILES = (
    *("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.model", "*.tiktoken", "chat_template*", "*processor_config.json"),
)


def run(prepared: Prepared) -> Path:
    """Carry the plan out and put the build folder together, not yet judged. StepFailed for a failing step."""
    made = prepared.plan
    tokenizer.needs_preparation(prepared.model_dir)  # refuses, now and not after hours, one that nobody could load
    if prepared.request["verify"] == "none":
        made = replace(made, steps=tuple(step for step in made.steps if step.name != plan.PARITY))
    started = time.monotonic()
    records = executor.run(made, toolchain.runners(prepared.toolchain), prepared.request["jobs"], progress.display())
    _publish(made.folder / "work" / plan.COMBINE / made.bmodel, made.folder / made.bmodel)
    _copy_config(prepared.model_dir, made.folder / "config")
    manifest = _manifest(prepared, {name: record.seconds for name, record in records.items()})
    manifest.seconds["wall"] = time.monotonic() - started
    manifests.write(manifest, made.folder)
    return made.folder


def judge(folder: Path, verify: str, say: Say) -> Manifest:
    """Climb the rungs that `verify` asks for, and write the verdict into manifest and report."""
    manifest = manifests.read(folder)
    scores: list[Score] = []
    split = manifest.options["devices"] > 1
    if verify == "full" and split:
        verify = "host"  # runtime takes nets for one device only
    if verify != "none":
        scores = _host_scores(folder)
    if verify == "full":
        scores += _chip_scores(folder, manifest, say)
    failure = ladder.first_failure(scores)
    manifest.parity = [score.as_json() for score in scores]
    manifest.status = manifests.FAILED if failure else manifests.VERIFIED
    manifest.reason = _reason(failure) if failure else ""
    if verify != "full" and not failure:
        manifest.status = manifests.UNVERIFIED
        manifest.reason = "the bmodel itself was not run" if verify == "host" else "verification was off"
        if split and verify == "host":
            manifest.reason += f": it is split over {manifest.options['devices']} devices"
    manifests.write(manifest, folder)
    report.write_report(manifest, folder)
    return manifest


def climb_again(folder: Path, say: Say) -> None:
    """Run the host's rungs once more, where the checkpoint and the ONNX are still here."""
    manifest = manifests.read(folder)
    model, work = Path(manifest.model["path"]), folder / "work"
    if not model.is_dir() or not next(work.glob("bind.*"), None):
        say("checkpoint or ONNX are not here: the rungs of the host stand as the build found them")
        return
    say("comparing Hugging Face, patched torch and ONNX Runtime")
    part, log = work / f"{plan.PARITY}.part", folder / "logs" / f"{plan.PARITY}.log"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    options = manifest.options
    names = ("seq_length", "devices", "prompt", "trust_remote_code")
    command = plan.parity_command(str(model), *(options[name] for name in names))
    with log.open("w") as out:
        done = subprocess.run(
            [sys.executable, *command[1:]], cwd=part, stdout=out, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise UserError("the comparison on the host failed", str(log), "read the log's last lines")
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

    reference, mode = folder / "work" / plan.PARITY / "reference", manifest.options["mode"]
    if not reference.is_dir():
        raise UserError("no reference to compare with", str(reference), "build again, without --verify none")
    say("running the bmodel against ONNX Runtime, net by net, then token by token")
    with Console(stderr=True).status("starting the engine") as status:
        return verify.climb(folder / manifest.bmodel, manifest.options["chip"], reference, mode, status.update)


def _reason(failure: Score) -> str:
    where = failure.net if failure.layer is None else f"{failure.net} (layer {failure.layer})"
    return f"rung {failure.rung}: {where} has {failure.metric} {failure.value:.6g}, the bar is {failure.bar:.6g}"


def _publish(made: Path, target: Path) -> None:
    """The finished bmodel at the top of the build folder: a second name where the disk can, else a copy; whole."""
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        os.link(made, part)
    except OSError:
        shutil.copyfile(made, part)
    os.replace(part, target)


def _copy_config(model_dir: Path, config: Path) -> None:
    config.mkdir(exist_ok=True)
    for pattern in CONFIG_FILES:
        for file in model_dir.glob(pattern):
            shutil.copyfile(file, config / file.name)
    tokenizer.prepare(model_dir, config)


def _manifest(prepared: Prepared, seconds: dict[str, float]) -> Manifest:
    made, recipe, spec, options = prepared.plan, prepared.recipe, prepared.spec, prepared.options
    work = made.folder / "work"
    digests = Digests(work / "digests.json")
    nets = {
        net.name: {
            "kind": net.kind,
            "layer": net.layer,
            "quantize": recipe.quantize(net.kind, options.mode),
            "cycles": profile.cycles(work / net.name, options.devices),
            "bytes": (work / net.name / f"{net.name}.bmodel").stat().st_size,
            "seconds": seconds[net.name],
        }
        for net in made.nets
    }
    model: dict[str, Any] = {
        "path": str(prepared.model_dir.absolute()),
        "source": recipe.source.model_dump(exclude_none=True) if prepared.request["model"] is None else None,
        "model_type": spec.model_type,
        "dtype": spec.dtype,
        "heads": spec.heads,
        "intermediate": spec.intermediate,
        "rope_switches": spec.switches(options.seq_length),
        "rope_restarts": spec.rope_restarts,
        "digest": digests.path(prepared.model_dir),
    }
    versions = {**toolchain.exporter_versions(), "tpu_mlir": prepared.toolchain.version()}
    return Manifest(
        name=made.folder.name,
        bmodel=made.bmodel,
        recipe=recipe.name,
        model=model,
        options={
            **asdict(options),
            "prompt": recipe.prompt,
            "trust_remote_code": prepared.request["trust_remote_code"],
            "bytes": (made.folder / made.bmodel).stat().st_size,
        },
        geometry=asdict(spec.geometry(options.seq_length, MODES[options.mode].half)),
        tools=versions,
        nets=nets,
        seconds=dict(seconds),
    )
