"""EMBED: the embedding as a file beside the bmodel, looked up on the host."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from cli import link
from contract import graphs
from contract.errors import UserError
from contract.graphs import EMBEDDING_FILE, Geometry
from exporters import spec, table
from exporters.checkpoint import Checkpoint
from runtime import bmodel, embedding
from runtime.engine import Engine
from runtime.half import from_storage, to_storage
from tests.compile.builds import recipe_plan
from tests.end_to_end.test_line import hf2bmodel, manifest
from tests.options.conftest import Checkpoint as Make
from tests.options.conftest import Made
from tests.options.conversations import CHIP, answer, assert_same, ids, session
from tests.runtime.conftest import bmodel_in

DISK = ("--mode", "bf16", "--embed", "disk")


@pytest.mark.toolchain
def test_it_climbs_the_ladder(made: Made, checkpoint: Make) -> None:
    folder = made(checkpoint("qwen2"), *DISK)
    done = manifest(folder)
    assert done["status"] == "verified", done["reason"]
    assert folder.name.endswith("_embed-disk")
    rungs = {(s["rung"], s["net"]) for s in done["parity"]}
    assert {("patched", "embedding"), ("chip", "embedding"), ("chip", "embedding_cache"), ("tokens", "model")} <= rungs
    assert done["beside"] == {EMBEDDING_FILE: hashlib.sha256((folder / EMBEDDING_FILE).read_bytes()).hexdigest()}


@pytest.mark.toolchain
def test_tokens_are_the_same_and_the_bmodel_is_smaller(made: Made, checkpoint: Make) -> None:
    chip, disk = (made(checkpoint("qwen2"), *words, "--verify", "none") for words in (DISK[:2], DISK))
    assert not {graphs.EMBEDDING, graphs.EMBEDDING_CACHE} & set(bmodel.read(bmodel_in(disk)).nets)
    sizes = [bmodel_in(folder).stat().st_size for folder in (chip, disk)]
    print(f"bmodel: {sizes[0]} bytes, with EMBED=disk {sizes[1]}, and a table of {2 * 500 * 128}")
    assert sizes[0] - sizes[1] >= 2 * 500 * 128
    steps = []
    for folder in (chip, disk):
        with session(folder) as opened:
            steps.append(answer(opened, opened.prefill(ids(30)), ids(5, seed=9)))
    assert_same(steps[1], steps[0])
    assert all(np.array_equal(a.logits, b.logits) for a, b in zip(*steps, strict=True))  # the checkpoint is bfloat16


@pytest.mark.toolchain
def test_a_table_that_is_another_or_missing_is_told(made: Made, checkpoint: Make, tmp_path: Path) -> None:
    folder = shutil.copytree(made(checkpoint("qwen2"), *DISK), tmp_path / "copy")
    path = folder / EMBEDDING_FILE
    content = path.read_bytes()
    path.write_bytes(bytes(2) + content[2:])
    done = hf2bmodel("verify", str(folder))
    assert done.returncode == 1
    assert f"{EMBEDDING_FILE} is not the one that the build made" in done.stdout
    path.write_bytes(content[:-2])
    with pytest.raises(UserError, match=f"{EMBEDDING_FILE}.*not rows of 128 values in bfloat16"):
        Engine(bmodel_in(folder), CHIP)
    path.unlink()
    with Engine(bmodel_in(folder), CHIP) as engine, pytest.raises(UserError, match=f"needs its {EMBEDDING_FILE}"):
        engine.session()


@pytest.mark.toolchain
def test_the_vendors_table_is_the_same_and_its_folder_talks(
    made: Made, convert: Made, talking_checkpoint: Path
) -> None:
    vendors = convert(CHIP, "--do_sample", "--embedding_disk")
    ours = made(talking_checkpoint, *DISK, "--verify", "none")
    (theirs,) = vendors.rglob(EMBEDDING_FILE)
    assert theirs.read_bytes() == (ours / EMBEDDING_FILE).read_bytes()
    steps = []
    for folder in (vendors, ours):
        with session(folder) as opened:
            steps.append(answer(opened, opened.prefill(ids(12)), ids(3, seed=4)))
    assert_same(steps[1], steps[0])


@pytest.mark.parametrize(("name", "half"), [("gemma", "bfloat16"), ("llama", "float16")])
def test_rows_are_what_the_first_layer_takes(name: str, half: str, checkpoint: Make, tmp_path: Path) -> None:
    folder = checkpoint(name)
    known = spec.read(folder)
    table.write(Checkpoint(folder), known, half, tmp_path)
    link.check_table(tmp_path / EMBEDDING_FILE, known.vocab, known.hidden)
    with pytest.raises(UserError, match="501 rows of 128 values take 128256"):
        link.check_table(tmp_path / EMBEDDING_FILE, known.vocab + 1, known.hidden)
    rows = Checkpoint(folder).read("model.embed_tokens.weight") * np.float32(known.embedding_scale)
    geometry = Geometry(1, known.hidden, 1, 1, 1, 1, 8, half)
    layer = {net.name: net for net in graphs.layer_nets(geometry, 0, history=False)}
    found = embedding.find(tmp_path / "x.bmodel", layer)
    assert found is not None
    assert found.rows == known.vocab
    chosen = np.array([[3, 499, 0]], np.int32)
    assert np.array_equal(found.states(chosen), to_storage(rows[chosen], half))
    assert np.abs(from_storage(found.states(chosen), half)).max() > 0
    assert embedding.find(tmp_path / "x.bmodel", {**found.nets, **layer}) is None


def test_values_beyond_the_type_are_refused(checkpoint: Make, tmp_path: Path) -> None:
    from dataclasses import replace

    known = replace(spec.read(checkpoint("gemma")), embedding_scale=1e6)
    with pytest.raises(UserError, match="values beyond float16"):
        table.write(Checkpoint(checkpoint("gemma")), known, "float16", tmp_path)


def test_the_plan_has_a_table_and_no_nets_for_it() -> None:
    plan = recipe_plan("qwen2.5-0.5b", embed="disk")
    assert plan.folder.name == "qwen2.5-0.5b_int4_seq512_bm1684x_1dev_embed-disk"
    assert not [net.name for net in plan.nets if net.name.startswith(graphs.EMBEDDING)]
    steps = {step.name: step for step in plan.steps}
    assert steps["table"].outputs == (EMBEDDING_FILE,)
    assert "table/embedding.bin" in steps["combine"].inputs
    assert "bind.embedding" not in steps
    assert "--host-embedding" in steps["trace"].commands[0]
    assert "--host-embedding" in steps["parity"].commands[0]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"--embed: .*use chip or disk"):
        recipe_plan("qwen2.5-0.5b", embed="host")
    with pytest.raises(UserError, match="--route: llm_convert cannot build this: it leaves its table"):
        recipe_plan("qwen2.5-0.5b", embed="disk", route="llm_convert")
