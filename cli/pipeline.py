"""The straight line from a plan to a build folder with its manifest. It prints nothing itself."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from cli import cache, forecast, link
from cli.prepare import Prepared
from compile import executor, plan, profile, progress, quantization, sizes, toolchain, vision
from compile.cluster import Cluster
from compile.digest import Digests
from compile.job import Record
from compile.store import Store
from contract import manifest as manifests
from contract.errors import UserError
from contract.graphs import EMBEDDING_FILE
from contract.manifest import Manifest
from contract.towers import POSITIONS_FILE
from exporters import spec as specs
from exporters import tokenizer

# Everything a tokenizer and a chat need, as the libraries name their files; never weights.
CONFIG_FILES = (
    *("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.model", "*.tiktoken", "chat_template*", "*processor_config.json"),
)


def run(prepared: Prepared) -> Path:
    """Carry the plan out and put the build folder together, not yet judged. StepFailed for a failing step; UserError
    where parts do not fit together, or the checkpoint has changed since it was looked at."""
    made = prepared.carried_out()
    tokenizer.needs_preparation(prepared.model_dir)  # refuses, now and not after hours, one that nobody could load
    link.check_tokenizer(prepared.model_dir, prepared.spec.vocab)
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
        events = progress.display(lambda: forecast.foresee(prepared).busy)
        executor.run(made, runners, jobs, events, {plan.COMBINE: fits}, publish, cluster)
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


def _publish(prepared: Prepared, started: float, records: Mapping[str, Record], digests: Digests) -> None:
    """What people use, at the top of the build folder. Killed at any moment, it leaves no manifest that says of a
    bmodel or tokenizer what holds for another."""
    folder, made = prepared.plan.folder, prepared.plan.folder / "work" / plan.COMBINE / prepared.plan.bmodel
    if specs.read(prepared.model_dir) != prepared.spec:
        raise UserError("changed while the build read it", str(prepared.model_dir), "build again")
    manifest = _manifest(prepared, records, digests)
    target, config, part = folder / prepared.plan.bmodel, folder / "config", folder / "config.part"
    shutil.rmtree(part, ignore_errors=True)
    _copy_config(prepared.model_dir, part)
    link.check_tokenizer(part, prepared.spec.vocab)
    (folder / manifests.NAME).unlink(missing_ok=True)
    _name(made, target, digests)
    beside = {Path(path).name: folder / "work" / path for path in prepared.plan.beside}
    for name in {EMBEDDING_FILE, POSITIONS_FILE} - beside.keys():
        (folder / name).unlink(missing_ok=True)  # of a recipe that has changed since
    for name, path in beside.items():
        _name(path, folder / name, digests)
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
    except OSError:
        shutil.copyfile(made, part)
    os.replace(part, target)
    digests.linked(target)  # as the last: to be renamed changes a time of the file too


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
        geometry=asdict(sizes.geometry(spec, options, quantization.half(spec, options))),
        tools=tools(prepared),
        nets=nets,
        seconds=dict(seconds),
        sha256=sha256,
        beside={name: records[step].outputs[name][1] for step, _, name in (p.partition("/") for p in made.beside)},
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
    return {**toolchain.exporter_versions(), "tpu_mlir": prepared.toolchain.version}


def source() -> dict[str, str]:
    """Our own version, and the digest of our code."""
    return {"version": metadata.version("hf2bmodel"), "digest": toolchain.own_sources()}
