"""EXECUTOR=ray: steps as tasks of a Ray cluster; the same bytes, also where a worker dies in the middle."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compile import executor
from compile.cluster import Cluster
from compile.executor import StepFailed
from compile.job import read_record
from compile.steps import Plan
from contract.errors import UserError
from tests.compile.builds import RUNNERS, small_plan, step
from tests.compile.faults import Quiet, outputs, slow_plan
from tests.compile.faults import run as run_here
from tests.end_to_end.test_line import hf2bmodel, manifest
from tests.options.conftest import Made


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes with a core each, and a connection to them."""
    ray = pytest.importorskip("ray", reason="the extra hf2bmodel[ray] is not installed")
    from ray.cluster_utils import Cluster as Nodes

    made = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def run(plan: Plan) -> None:
    cluster = Cluster()
    executor.run(plan, RUNNERS, cluster.jobs, Quiet(), cluster=cluster)


@pytest.mark.slow
def test_steps_run_on_both_nodes_and_a_worker_that_dies_is_replaced(nodes: Any, tmp_path: Path) -> None:
    """Bytes and records are those of a build here, and it all counts as made for one here."""
    assert Cluster().jobs == 2
    run_here(slow_plan(tmp_path / "here" / "build"))
    plan = slow_plan(tmp_path / "there" / "build")
    where = "import os; open('node.txt', 'w').write(str(os.getppid()))"
    pids = [step(n, f"{where}; import time; time.sleep(2)", outputs=("node.txt",)) for n in ("x", "y")]
    wanted, killed = replace(plan, steps=(*plan.steps, *pids)), []

    def kill() -> None:
        """The worker that runs x, as soon as it does."""
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for file in (plan.folder / "work").glob("x.*.part/node.txt"):
                if text := file.read_text():
                    os.kill(int(text), signal.SIGKILL)
                    killed.append(int(text))
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    run(wanted)
    thread.join()
    assert len(killed) == 1
    last = {name: int((plan.folder / f"work/{name}/node.txt").read_text()) for name in ("x", "y")}
    assert len({*killed, *last.values()}) == 3, "x ran in another worker after the first one's death, beside y's"
    assert not list((plan.folder / "work").glob("*.part"))
    assert {k: v for k, v in outputs(plan.folder).items() if k.split("/")[1] not in last} == outputs(
        tmp_path / "here" / "build"
    )
    times = {p: p.stat().st_mtime_ns for p in (plan.folder / "work").glob("*/out.bin")}
    run_here(plan)
    assert times == {p: p.stat().st_mtime_ns for p in times}


@pytest.mark.slow
def test_a_node_that_leaves_takes_no_step_with_it(nodes: Any, tmp_path: Path) -> None:
    node = nodes.add_node(num_cpus=2)
    deadline = time.monotonic() + 20
    while Cluster().jobs < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    plan = small_plan(tmp_path, *(step(f"s{n}", "import time; time.sleep(3); open('out.txt', 'w')") for n in range(4)))
    thread = threading.Thread(target=lambda: run(plan))
    thread.start()
    while len(list((tmp_path / "work").glob("*.part"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    nodes.remove_node(node, allow_graceful=False)
    thread.join(90)
    assert all(read_record(tmp_path / "work" / f"s{n}") for n in range(4))


@pytest.mark.slow
def test_a_failing_step_says_so_and_the_others_are_stopped(nodes: Any, tmp_path: Path) -> None:
    slow = step("slow", "open('../pid', 'w').write(str(__import__('os').getpid())); import time; time.sleep(300)")
    bad = step("bad", "import os, sys, time\nwhile not os.path.exists('../pid'): time.sleep(0.05)\nsys.exit('why')")
    with pytest.raises(StepFailed) as error:
        run(small_plan(tmp_path, slow, bad))
    assert (error.value.step, error.value.reason, error.value.tail[-1]) == ("bad", "exit code 1", "why")
    deadline = time.monotonic() + 10
    while Path(f"/proc/{(tmp_path / 'work/pid').read_text()}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{(tmp_path / 'work/pid').read_text()}").exists()


def test_an_address_without_ray_is_refused() -> None:
    done = hf2bmodel("build", "stories15m", "--address", "1.2.3.4:6379", "--plan")
    assert done.returncode == 2
    assert "--address: an address of a cluster, and steps run here; give --executor ray as well" in done.stderr


def test_without_the_extra_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"--executor ray: Ray is not installed; pip install 'hf2bmodel\[ray\]'"):
        Cluster()


@pytest.mark.toolchain
def test_the_plan_counts_that_the_parts_of_the_bmodel_stay() -> None:
    """Where a step may run twice, none takes its inputs."""
    pytest.importorskip("ray", reason="the extra hf2bmodel[ray] is not installed")
    runs = ((), ("--executor", "ray", "--jobs", "2"))
    here, there = (hf2bmodel("build", "qwen2.5-7b", "--plan", *words).stderr for words in runs)
    row = r"^  disk +([\d.]+) GiB, ([\d.]+) GiB at most\n  bmodel +([\d.]+) GiB$"
    sizes = [[float(word) for word in re.findall(row, said, re.MULTILINE)[0]] for said in (here, there)]
    (peak, disk, bmodel), (peak_there, disk_there, _) = sizes
    assert disk_there - disk == pytest.approx(bmodel, abs=0.06)  # each is rounded
    assert peak_there >= max(peak, 2 * bmodel)


@pytest.mark.toolchain
def test_a_real_build_gives_the_same_bytes(made: Made, checkpoint: Callable[[str], Path]) -> None:
    pytest.importorskip("ray", reason="the extra hf2bmodel[ray] is not installed")
    words = ("--mode", "bf16", "--verify", "none")
    folder = made(checkpoint("qwen2"), *words)
    here = manifest(folder)["sha256"]
    for place in (folder, folder.parent / ".steps"):
        shutil.rmtree(place)
    assert manifest(made(checkpoint("qwen2"), *words, "--executor", "ray"))["sha256"] == here
