"""Never stale, never lost: builds that are killed, starved of disk, damaged and disturbed end as undisturbed ones do.

Most of it on steps that are small Python programs; what only the real compiler can show is in test_faults_real.py.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from compile import guard, job, store
from compile.digest import Digests
from compile.steps import Plan
from compile.store import Store
from contract.errors import UserError
from tests.compile.builds import small_plan, step, write
from tests.compile.faults import end, kill, outputs, remains, run, slow_plan, small_disk, start, wait_for

pytestmark = pytest.mark.slow

KILLS, SEED = 32, 20260801


@pytest.fixture(scope="module", params=[False, True], ids=["kept", "passing"])
def passing(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, passing: bool) -> tuple[dict[str, bytes], float]:
    """What the slow plan's build leaves, and how long it takes."""
    folder = tmp_path_factory.mktemp("undisturbed") / "build"
    begun = time.monotonic()
    run(slow_plan(folder, passing=passing))
    return outputs(folder), time.monotonic() - begun


def test_a_build_killed_at_any_moment_goes_on_and_ends_the_same(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], float], passing: bool
) -> None:
    """Four kills to a build, of the process alone or of its group in turn, then a run to the end."""
    wanted, seconds = undisturbed
    chance = random.Random(SEED)
    killed = set()
    for number in range(KILLS):
        plan = slow_plan(tmp_path / f"build{number // 4}", number % 8 < 4, passing)
        pid = start(lambda plan=plan: run(plan))  # type: ignore[misc]
        time.sleep(chance.uniform(0.0, 0.6) * seconds)
        kill(pid, group=bool(number % 2))
        killed.add(len(list((plan.folder / "work").glob("*/step.json"))))
        if number % 4 == 3:
            assert end(start(lambda plan=plan: run(plan))) == 0  # type: ignore[misc]
            assert outputs(plan.folder) == wanted
            assert not list((plan.folder / "work").glob("*.part"))
    assert len(killed) > 3, "the kills did not meet the builds at different stages"


@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
def test_a_killed_build_leaves_no_process(tmp_path: Path, group: bool) -> None:
    """Nor does the next build have to meet them: it waits until they are gone."""
    sleeper = "import subprocess, sys; subprocess.run(['sleep', '600'], start_new_session=True)"
    plan = small_plan(tmp_path / "build", step("a", sleeper), step("b", sleeper))
    pid = start(lambda: run(plan))
    wait_for(lambda: len(remains(pid)) == 4)
    kill(pid, group)
    after = replace(plan, steps=(step("a", write("'a'")),))
    run(after)
    assert remains(pid) == []


def test_a_second_build_is_refused_at_once_and_a_dead_one_does_not_block(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "build", step("a", "import time; time.sleep(600)"))
    pid = start(lambda: run(plan))
    wait_for(lambda: len(remains(pid)) == 1)
    begun = time.monotonic()
    with pytest.raises(UserError, match="another build is at work here"):
        run(plan)
    assert time.monotonic() - begun < guard.PATIENCE / 2
    kill(pid, group=False)
    run(replace(plan, steps=(step("a", write("'a'")),)))


def damages(plan: Plan) -> Iterator[Path]:
    """Every file that a build keeps for later, logs aside."""
    assert plan.store
    for folder in (plan.folder / "work", plan.store):
        yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_whatever_cached_file_is_damaged_the_result_is_right(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], float], passing: bool, damage: str
) -> None:
    """Also with its time set back, and where the shared store has the same file, under another name or as a copy."""
    wanted, chance, plan = undisturbed[0], random.Random(SEED), slow_plan(tmp_path / "build", passing=passing)
    plan = replace(plan, steps=tuple(replace(s, commands=fast(s.commands)) for s in plan.steps))
    run(plan)
    wanted = outputs(plan.folder)
    files = list(damages(plan))
    assert len(files) > (15 if passing else 30)
    for path in chance.sample(files, 12):
        data, stat = bytearray(path.read_bytes()), path.stat()
        if damage == "flip":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        else:
            del data[0 if damage == "empty" else chance.randrange(len(data)) :]
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        run(plan)
        assert differing(outputs(plan.folder), wanted) == [], path


def fast(commands: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(word.replace("time.sleep(0.004)", "pass") for word in command) for command in commands)


def differing(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    """Step records may hold another identity where only a memory of an input's digest was damaged; files may not."""
    return [name for name in {*found, *wanted} if found.get(name) != wanted.get(name)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    with small_disk(tmp_path / "disk", "1m") as place:
        yield place


def test_a_full_disk_is_one_line_and_the_build_goes_on_after_room_is_made(disk: Path) -> None:
    big = "open('out.txt', 'wb').write(bytes(range(256)) * 3000)"
    plan = small_plan(disk / "build", *(step(n, big, outputs=("out.txt",)) for n in ("a", "b", "c")))
    with pytest.raises(UserError, match=r"disk/build: the disk is full; make room and build again") as error:
        run(plan, jobs=1)
    assert "\n" not in str(error.value)
    assert job.read_record(disk / "build/work/a")
    with pytest.raises(UserError, match="the disk is full"):
        run(plan, jobs=1)
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    run(plan, jobs=1)
    assert all((disk / f"build/work/{n}/out.txt").read_bytes() == bytes(range(256)) * 3000 for n in ("a", "b", "c"))


def test_a_disk_without_room_for_a_single_file(disk: Path) -> None:
    (disk / "build").mkdir()
    (disk / "ballast").write_bytes(bytes(2**20 - os.sysconf("SC_PAGE_SIZE") * 1))
    with pytest.raises(UserError, match="the disk is full"):
        run(small_plan(disk / "build", step("a", write("'a' * 9000"))))
    (disk / "ballast").unlink()
    run(small_plan(disk / "build", step("a", write("'a' * 9000"))))


def test_builds_beside_each_other_keep_and_take_the_same_steps(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], float], passing: bool
) -> None:
    wanted = undisturbed[0]
    for turn in range(3):
        plans = [slow_plan(tmp_path / str(turn) / name, passing=passing) for name in ("one", "two", "three")]
        pids = [start(lambda plan=plan: run(plan)) for plan in plans]  # type: ignore[misc]
        assert [end(pid) for pid in pids] == [0, 0, 0]
        for plan in plans:
            assert outputs(plan.folder) == wanted
        assert plans[0].store
        assert not list(plans[0].store.glob("*.part"))
        assert len(Store(plans[0].store).entries()) == 7


def test_a_half_made_entry_is_not_taken_and_goes_in_time(tmp_path: Path) -> None:
    plan = replace(small_plan(tmp_path / "one", step("a", write("'abc'"))), store=tmp_path / ".steps")
    run(plan)
    (entry,) = (tmp_path / ".steps").iterdir()
    shutil.rmtree(tmp_path / "one")
    (entry / "out.txt").unlink()  # as when it was being removed
    old, young = (shutil.copytree(entry, tmp_path / ".steps" / f"{n}.xyz.part") for n in ("old", "young"))
    os.utime(old, (0, time.time() - store.STALE - 60))
    run(plan)
    assert (tmp_path / "one/work/a/out.txt").read_text() == "abc"
    assert (tmp_path / "runs").exists() or (tmp_path / "one" / "runs").exists()
    assert (old.exists(), young.exists()) == (False, True)


def test_an_entry_that_vanishes_while_it_is_taken(tmp_path: Path) -> None:
    """Another build removes it and makes it anew, again and again."""
    plan = replace(small_plan(tmp_path / "one", step("a", write("'abc'"))), store=tmp_path / ".steps")
    run(plan)
    record = job.read_record(tmp_path / "one/work/a")
    assert record
    kept, over, chance = Store(tmp_path / ".steps"), threading.Event(), random.Random(SEED)

    def disturb() -> None:
        own = Digests(tmp_path / "other.json")
        while not over.is_set():
            kept.keep(tmp_path / "one/work/a", record, own)
            time.sleep(chance.uniform(0, 0.06))

    thread = threading.Thread(target=disturb)
    thread.start()
    digests, taken = Digests(tmp_path / "digests.json"), 0
    end = time.monotonic() + 60  # a take may miss, and misses are quick: as many tries as it needs, within reason
    try:
        while taken < 40 and time.monotonic() < end:
            target = tmp_path / f"target{taken}"
            if kept.take(record.identity, target, digests):
                taken += 1
                assert (target / "out.txt").read_text() == "abc"
            else:
                assert not target.exists()
    finally:
        over.set()
        thread.join()
    assert taken == 40


@pytest.mark.parametrize("moment", ["while a step reads it", "between two steps", "after the last step that reads it"])
def test_a_checkpoint_that_is_replaced_in_the_middle_is_noticed(tmp_path: Path, moment: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_text("old")
    replaced = f"open({str(model / 'model.safetensors')!r}, 'w').write('new')"
    read = f"open({str(model / 'model.safetensors')!r}).read()"
    source = str(model)
    steps = {
        "while a step reads it": (step("a", f"{write(read)}; {replaced}", source),),
        "between two steps": (step("a", f"{write(read)}", source), step("b", write(read), source, "x/")),
        "after the last step that reads it": (step("a", write(read), source),),
    }[moment]
    if moment != "while a step reads it":
        steps = (steps[0], step("x", f"{write(repr('x'))}; {replaced}", "a/"), *steps[1:])
    plan = replace(small_plan(tmp_path / "build", *steps), store=tmp_path / ".steps")
    with pytest.raises(UserError, match=rf"{model}.*: changed while the build read it; build again"):
        run(plan)
    (model / "model.safetensors").write_text("old")
    plain = (step("a", write(read), source), step("b", write(read), source, "a/"))
    run(replace(plan, steps=plain))
    assert [(tmp_path / f"build/work/{n}/out.txt").read_text() for n in ("a", "b")] == ["old", "old"]


def test_an_input_damaged_while_a_step_reads_it_does_not_spoil_its_record(tmp_path: Path) -> None:
    harm = "open('../a/out.txt', 'w').write('z')"
    plan = small_plan(
        tmp_path / "build", step("a", write("'a'")), step("b", f"{write(repr('b'))}; {harm}", "a/out.txt")
    )
    with pytest.raises(UserError, match=r"work/a/out\.txt: changed while the build read it"):
        run(plan)
    assert job.read_record(tmp_path / "build/work/b") is None
