"""What --plan says beforehand, held to what builds then measure."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli import forecast
from cli.cache import parse
from cli.peaks import Disk, Memory
from cli.prepare import Prepared, Request, prepare
from compile import footprint as footprints
from compile import history
from compile.job import Record, read_record
from contract.errors import UserError
from runtime import bmodel
from tests import tiny
from tests.compile.builds import options, recipe_and_spec, recipe_plan
from tests.end_to_end.test_line import ROOT, hf2bmodel, manifest

RECIPE = """\
name: thin
architecture: qwen2
source: {hub: someone/thin}
seq_length: 512
mode: int4
group_size: 32
prompt: "Hello"
"""
# One layer of Qwen2.5-0.5B's sizes.
SIZES = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 4000,
    "max_position_embeddings": 1024,
}
near = pytest.approx
LOADED = """
import sys
from pathlib import Path
from runtime import simulator
from runtime.device import Device
device = Device(simulator.find("bm1684x"), Path(sys.argv[1]), 0, 1, share_mem=True)
print("next free:", device.allocate(4096).mems[0].addr)
device.close()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forecast")
    tiny.make("qwen2", folder / "checkpoint", **SIZES)
    (folder / "thin.yaml").write_text(RECIPE)
    return folder


def foreseen(place: Path, **chosen: Any) -> Prepared:
    work = {"model": str(place / "checkpoint"), "out": str(place / "out"), "verify": "none", "jobs": 1}
    return prepare(Request(str(place / "thin.yaml"), {**work, **chosen}), lambda line: None)


@dataclass(frozen=True)
class Built:
    """`memory`, `disk`: bytes, at their peaks."""

    folder: Path
    memory: int
    disk: int

    def records(self, prepared: Prepared) -> dict[str, Record]:
        found = {step.name: read_record(self.folder / "work" / step.name) for step in prepared.plan.steps}
        return {name: record for name, record in found.items() if record}


def build(place: Path, *words: str, jobs: int = 1) -> Built:
    """Not with the test run's servers: of what they take and their forks, this build's part is not known."""
    work = ("--model", str(place / "checkpoint"), "--out", str(place / "out"), "--verify", "none", "--jobs", str(jobs))
    with Disk(place / "out") as disk, Memory(highest=jobs == 1) as memory:
        done = hf2bmodel("build", str(place / "thin.yaml"), *work, *words, warm=False)
    assert done.returncode == 0, done.stderr
    folder = Path(re.findall(r"^unverified: (\S+)/[^/]+\.bmodel", done.stdout, re.MULTILINE)[0])
    return Built(folder, memory.most, disk.most)


def build_afresh(place: Path, before: Path, prepared: Prepared, jobs: int = 1) -> Built:
    """What `prepared` says, which was built in the folder `before`, with all of its steps."""
    shutil.rmtree(before)
    assert prepared.plan.store
    shutil.rmtree(prepared.plan.store)
    return build(place, "--head", "bf16", jobs=jobs)


@pytest.mark.toolchain
def test_estimates_are_within_15_percent_of_what_the_build_measures(place: Path) -> None:
    """Sizes before anything was built; cycles, time and memory of another build by what the first one measured."""
    before, built = forecast.foresee(foreseen(place)), build(place)
    assert before.measured == 0
    first = built.folder
    file = first / manifest(first)["bmodel"]
    assert before.footprint.file == near(file.stat().st_size, rel=0.15)
    (memory,) = bmodel.memory(file)
    assert before.footprint.loaded == near(memory.whole, rel=0.15)
    assert before.footprint.weights == near(memory.weights, rel=0.15)
    assert before.footprint.scratch == near(memory.scratch, rel=0.15)
    print(f"by rates: memory {before.memory / built.memory:.2f}, disk {before.disk / built.disk:.2f} of what it took")
    assert before.disk == near(built.disk, rel=0.15)
    assert before.memory == near(built.memory, rel=0.15)
    assert built.disk <= before.most_disk
    assert built.memory <= before.most_memory
    for name, nets in (("prefill", ("block_0", "lm_head")), ("decode", ("block_cache_0", "lm_head"))):
        cycles = before.passes[name].cycles
        assert cycles is not None
        assert cycles <= sum(manifest(first)["nets"][net]["cycles"] for net in nets)  # it is a bound

    # Another build that has the nets of the first one's layer, and another head.
    other = foreseen(place, head="bf16")
    told = forecast.foresee(other)
    assert (told.measured, told.steps) == (len(other.plan.steps) - 2, len(other.plan.steps) - 1)
    second = build(place, "--head", "bf16")
    nets = manifest(second.folder)["nets"]
    for name, passed in (
        ("prefill", ("embedding", "block_0", "lm_head")),
        ("decode", ("embedding_cache", "block_cache_0", "lm_head")),
    ):
        assert (told.passes[name].measured, told.passes[name].nets) == (2, 3)
        assert told.passes[name].cycles == near(sum(nets[net]["cycles"] for net in passed), rel=0.15)

    # The same from scratch: nothing is taken from the store.
    again = forecast.foresee(other)
    assert again.measured == again.steps
    assert again.passes["decode"].cycles == sum(
        nets[n]["cycles"] for n in ("embedding_cache", "block_cache_0", "lm_head")
    )
    # Seconds are those that were recorded: a machine that others use may take any other time for the same again.
    records = second.records(other)
    assert sum(again.busy.values()) == near(sum(record.seconds for record in records.values()), rel=0.15)
    third = build_afresh(place, second.folder, other)
    print(f"by records: memory {again.memory / third.memory:.2f}, disk {again.disk / third.disk:.2f} of what it took")
    assert again.memory == near(third.memory, rel=0.15)
    assert again.disk == near(third.disk, rel=0.15)
    assert third.memory <= again.most_memory
    assert third.disk <= again.most_disk

    # Two at once. Which of its short steps are at their peaks at the same moment is chance, so that these figures are
    # held to what one job takes and to the bounds here, and nearer where there is none (test_schedule, `bench plan`).
    fourth = build_afresh(place, third.folder, other, jobs=2)
    shutil.move(first, place / "first")  # what steps took then is not what they took now
    own = forecast.foresee(foreseen(place, head="bf16", jobs=2))
    assert own.measured == own.steps
    print(f"two at once: memory {own.memory / fourth.memory:.2f}, disk {own.disk / fourth.disk:.2f} of what it took")
    assert 0.85 * again.memory <= min(own.memory, fourth.memory) <= max(own.memory, fourth.memory) <= own.most_memory
    assert 0.85 * again.disk <= min(own.disk, fourth.disk) <= max(own.disk, fourth.disk) <= own.most_disk
    assert fourth.memory <= 1.15 * own.memory  # that peaks meet which are not foretold to was not seen
    assert fourth.disk <= 1.15 * own.disk
    clock, busy = own.seconds - own.begin, sum(own.busy.values())
    assert clock < 0.95 * busy  # some ran side by side: else it would be their sum
    assert clock == near(manifest(fourth.folder)["seconds"]["wall"], rel=0.15)


@pytest.mark.toolchain
def test_the_device_gives_as_much_as_the_bmodel_says(place: Path) -> None:
    """The simulator's allocator goes upwards: behind all that was loaded lies the next free byte."""
    folder = build(place).folder
    file = folder / manifest(folder)["bmodel"]
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(file)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    place_of_next = int(re.findall(r"next free: (\d+)", done.stdout)[0])
    assert place_of_next - 0x105100000 == near(bmodel.memory(file)[0].whole, rel=0.01)


@pytest.mark.toolchain
def test_plan_prints_figures_beside_the_script(place: Path) -> None:
    words = ("--plan", "--model", str(place / "checkpoint"), "--memory", "16G", "--out", str(place / "none"))
    done = hf2bmodel("build", str(place / "thin.yaml"), *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/usr/bin/env bash")
    assert "forecast of" not in done.stdout
    rows = dict(re.findall(r"^  (\w+(?: memory)?) {2,}(.*)$", done.stderr, re.MULTILINE))
    assert set(rows) == {"nets", "time", "memory", "disk", "bmodel", "device memory", "prefill", "decode"}
    assert "fits 16 GiB" in rows["device memory"]
    assert "by rates of another machine" in rows["time"]
    assert "a bound" in rows["decode"]
    assert not (place / "none").exists()


@pytest.mark.toolchain
def test_a_chip_that_was_not_measured_has_no_bound(place: Path) -> None:
    made = foreseen(place, chip="bm1688", out=str(place / "none"))
    told = forecast.foresee(made)
    assert told.passes["decode"].cycles is None
    assert "not known" in forecast.table(told, made.plan.folder, None)


def test_a_manifest_that_is_gone_meanwhile_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed, and removed by another build before it is looked at."""
    gone = tmp_path / "build" / "manifest.json"
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([gone]))
    assert list(history._builds(tmp_path)) == []


@pytest.mark.toolchain
def test_more_jobs_take_less_time_and_more_memory(place: Path) -> None:
    one, two = (forecast.foresee(foreseen(place, jobs=jobs, out=str(place / "none"))) for jobs in (1, 2))
    assert one.begin > 1  # Python's start and the compiler's, in seconds
    assert one.seconds == near(one.begin + sum(one.busy.values()))
    assert two.seconds < one.seconds
    assert two.most_memory > one.most_memory
    assert two.memory > one.memory


@pytest.mark.parametrize(
    ("most", "chosen", "says"),
    [
        ("4G", {}, r"needs \S+ GiB and has 4 GiB; use EMBED=disk or DEV=2"),
        ("6G", {"seq_length": 32768}, "use SEQ=4096$"),
        ("9G", {"mode": "bf16"}, "use MODE=int4 or DEV=2"),
        ("1M", {}, "no single change of SEQ, MODE, EMBED or DEV helps"),
    ],
)
def test_what_does_not_fit_is_refused(most: str, chosen: dict[str, Any], says: str) -> None:
    recipe, spec = recipe_and_spec("qwen2.5-7b")
    sizes = forecast.Sizes(recipe, spec, options(recipe, **chosen))
    with pytest.raises(UserError, match=says):
        forecast.check_memory(parse(most, ""), sizes)
    forecast.check_memory(None, sizes)
    forecast.check_memory(parse("64G", ""), sizes)


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match='--memory: "much" is no size'):
        prepare(Request("qwen2.5-7b", {"memory": "much"}), lambda line: None)


@pytest.mark.toolchain
def test_a_build_that_does_not_fit_is_refused_before_any_work(place: Path) -> None:
    words = ("--model", str(place / "checkpoint"), "--memory", "20M", "--out", str(place / "none"))
    for more in ((), ("--plan",)):
        done = hf2bmodel("build", str(place / "thin.yaml"), *words, *more)
        assert done.returncode == 2
        assert done.stderr.startswith("hf2bmodel: --memory: a device needs ")
    assert not (place / "none").exists()


def test_the_head_counts_as_what_it_is_stored_as() -> None:
    recipe, spec = recipe_and_spec("qwen2.5-0.5b")
    sizes = [
        footprints.footprint(recipe, spec, options(recipe, head=head), recipe_plan("qwen2.5-0.5b", head=head).nets)
        for head in ("int4", "int8", "bf16")
    ]
    assert sizes[2].file - sizes[1].file > 0.9 * spec.vocab * spec.hidden
    assert sizes[1].file - sizes[0].file > 0.4 * spec.vocab * spec.hidden
