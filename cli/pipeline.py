"""The straight line: plan, build folder, ladder, manifest, report. It prints nothing itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from cli import cache, link
from cli.prepare import Prepared, Say
from compile import digest, executor, exporter, guard, plan, profile, progress, quantization, report, toolchain, vision
from compile.cluster import Cluster
from compile.digest import Digests
from compile.job import Record
from compile.store import Store
from contract import ladder
from contract import manifest as manifests
from contract.errors import UserError
from contract.graphs import EMBEDDING, EMBEDDING_CACHE, EMBEDDING_FILE, FLOAT16
from contract.ladder import Score
from contract.manifest import Manifest
from exporters import spec as specs
from exporters import tokenizer
from runtime import simulator

DAMAGED = "{} is not the one that the build made (its SHA-256 is another): build again"
# Everything a tokenizer and a chat need, as the libraries name their files; never weights.
CONFIG_FILES = (
    *("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.model", "*.tiktoken", "chat_template*", "*processor_config.json"),
)


def run(prepared: Prepared) -> Path:
    """Carry the plan out and put the build folder together, not yet judged. StepFailed for a failing step; UserError
    where parts do not fit together, or the checkpoint has changed since it was looked at."""
    made = prepared.plan
    tokenizer.needs_preparation(prepared.model_dir)  # refuses, now and not after hours, one that nobody could load
    link.check_tokenizer(prepared.model_dir, prepared.spec.vocab)
    if prepared.request["verify"] == "none":
        made = replace(made, steps=tuple(step for step in made.steps if step.name != plan.PARITY))
    made = made.keeping() if prepared.request["keep"] else made
    started, limit = time.monotonic(), cache.limit()
    runners, options = toolchain.runners(prepared.toolchain), prepared.options
    fits = partial(link.check_nets, made.nets, made.folder / "work", options.chip, options.devices)
    if options.host_embedding:
        table = made.folder / "work" / plan.TABLE / EMBEDDING_FILE
        fits = partial(
            link.check_all, fits, partial(link.check_table, table, prepared.spec.vocab, prepared.spec.hidden)
        )
    publish = partial(_publish, prepared, started)
    with _cluster(prepared) as cluster:
        jobs = cluster.jobs if cluster and not prepared.request.chosen.get("jobs") else prepared.request["jobs"]
        executor.run(made, runners, jobs, progress.display(), {plan.COMBINE: fits}, publish, cluster)
    if made.store:
        Store(made.store).prune(limit)
    return made.folder


@contextlib.contextmanager
def _cluster(prepared: Prepared) -> Iterator[Cluster | None]:
    """None where the steps run here."""
    if prepared.request["executor"] != "ray":
        yield None
        return
    cluster = Cluster(prepared.request["address"])
    try:
        yield cluster
    finally:
        cluster.close()


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


def _publish(prepared: Prepared, started: float, records: Mapping[str, Record], digests: Digests) -> None:
    """What people use, at the top of the build folder. Killed at any moment, it leaves no manifest that says of a
    bmodel or tokenizer what holds for another."""
    folder, made = prepared.plan.folder, prepared.plan.folder / "work" / plan.COMBINE / prepared.plan.bmodel
    if specs.read(prepared.model_dir) != prepared.spec:
        raise UserError("changed while the build read it", str(prepared.model_dir), "build again")
    manifest = _manifest(prepared, records, digests)
    target, config, part = folder / prepared.plan.bmodel, folder / "config", folder / "config.part"
    table = folder / EMBEDDING_FILE
    shutil.rmtree(part, ignore_errors=True)
    _copy_config(prepared.model_dir, part)
    link.check_tokenizer(part, prepared.spec.vocab)
    (folder / manifests.NAME).unlink(missing_ok=True)
    _name(made, target, digests)
    if prepared.options.host_embedding:
        _name(folder / "work" / plan.TABLE / EMBEDDING_FILE, table, digests)
    else:
        table.unlink(missing_ok=True)  # of a recipe that has changed since
    shutil.rmtree(config, ignore_errors=True)
    part.rename(config)
    manifest.seconds["wall"] = time.monotonic() - started
    manifests.write(manifest, folder)


def _name(made: Path, target: Path, digests: Digests) -> None:
    """A finished file at the top of the build folder: a second name where the disk can, else a copy; whole."""
    if target.is_file() and target.samefile(made):
        return
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        os.link(made, part)
        digests.linked(part)
    except OSError:
        shutil.copyfile(made, part)
    os.replace(part, target)


def _copy_config(model_dir: Path, config: Path) -> None:
    config.mkdir(exist_ok=True)
    for pattern in CONFIG_FILES:
        for file in model_dir.glob(pattern):
            shutil.copyfile(file, config / file.name)
    tokenizer.prepare(model_dir, config)


def _manifest(prepared: Prepared, records: Mapping[str, Record], digests: Digests) -> Manifest:
    made, recipe, spec, options = prepared.plan, prepared.recipe, prepared.spec, prepared.options
    work, seconds = made.folder / "work", {name: record.seconds for name, record in records.items()}
    size, sha256 = records[plan.COMBINE].outputs[made.bmodel]
    nets = {
        net.name: {
            "kind": net.kind,
            "layer": net.layer,
            "quantize": quantization.word(recipe, spec, options, net.kind, prepared.grid),
            "cycles": profile.cycles(work / net.name, options.devices),
            "bytes": records[net.name].outputs[f"{net.name}.bmodel"][0],
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
        "tower": vision.tower(spec, options),
        "digest": digests.path(prepared.model_dir),
    }
    return Manifest(
        name=made.folder.name,
        bmodel=made.bmodel,
        recipe=recipe.name,
        model=model,
        options={
            **asdict(options),
            "prompt": recipe.prompt,
            "trust_remote_code": prepared.request["trust_remote_code"],
            "bytes": size,
        },
        geometry=asdict(spec.geometry(options.seq_length, quantization.half(spec, options), options.prefill_length)),
        tools=tools(prepared),
        nets=nets,
        seconds=dict(seconds),
        sha256=sha256,
        beside={name: sha for name, (_, sha) in records[plan.TABLE].outputs.items()} if options.host_embedding else {},
        inputs=_inputs(prepared, digests),
    )


def _adapter_files(adapter: str | None, digests: Digests) -> dict[str, str]:
    return {f"adapter/{name}": digest for name, digest in digests.folder(Path(adapter)).items()} if adapter else {}


def _inputs(prepared: Prepared, digests: Digests) -> dict[str, Any]:
    """All that decides the bytes, beside the tools."""
    folder = prepared.model_dir.resolve()
    return {
        "recipe": {
            **prepared.recipe.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"source"}),
            "source": prepared.recipe.source.model_dump(mode="json", exclude_unset=True),
        },
        "options": asdict(prepared.options),
        "files": {**digests.folder(folder), **_adapter_files(prepared.options.adapter, digests)},
        # The hub's cache keeps each revision in a folder of its name.
        "revision": folder.name if re.fullmatch("[0-9a-f]{40}", folder.name) else "",
        "source": source(),
    }


def tools(prepared: Prepared) -> dict[str, str]:
    """Versions of all that others made and that decides the bytes."""
    return {**toolchain.exporter_versions(), "tpu_mlir": prepared.toolchain.version()}


def source() -> dict[str, str]:
    """Our own version, and the digest of our code."""
    return {"version": metadata.version("hf2bmodel"), "digest": toolchain.own_sources()}
