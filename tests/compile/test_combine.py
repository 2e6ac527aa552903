"""Combining bmodels: the whole holds what its parts hold, the parts go as it grows, and come back byte for byte.

That real parts combine to what `model_tool --combine` makes of them is in test_real_compiler.py.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compile import combine, flatwriter, parts
from compile.steps import Plan, Step
from contract.bmodel import HEADER, MAGIC, READER
from runtime import bmodel
from tests.compile.builds import small_plan, step
from tests.compile.faults import end, outputs, small_disk, start
from tests.compile.test_executor import run
from tests.runtime import test_bmodel as files

KERNEL = bytes(range(256)) * 40
SHAPE = {"dim": [1, 4]}


def describe(path: Path) -> tuple[dict[str, Any], bytes]:
    """The description, and the binary data."""
    data = path.read_bytes()
    magic, header, described, binary = HEADER.unpack_from(data)
    assert (magic, len(data)) == (MAGIC, header + described + binary)
    return READER.read(data[header : header + described], "Model"), data[header + described :]


def contents(path: Path) -> Any:
    """The description with bytes in the place of where they lie."""
    model, binary = describe(path)

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: filled(value) for name, value in node.items()}
        if isinstance(node, list):
            return [filled(value) for value in node]
        return binary[node[0] : sum(node)] if isinstance(node, tuple) and len(node) == 2 else node

    return filled(model)


def part(path: Path, nets: dict[str, bytes], **root: Any) -> Path:
    """A bmodel of nets with these weights, each with a command of its own, and one that all parts have."""
    binary, made = bytearray(KERNEL), []

    def put(content: bytes) -> tuple[int, int]:
        binary.extend(bytes(-len(binary) % 4096) + content)
        return len(binary) - len(content), len(content)

    places = {weights: put(weights) for weights in nets.values()}
    for name, weights in nets.items():
        coefficients = {"check_code": list(hashlib.sha256(weights).digest()), "binary_coeff": places[weights]}
        group = {"binary_bdc": put(name.encode() * 9), "binary_gdma": put(b"same" * 9), "bdc_cmd_byte": 7}
        tensor = {"name": "x", "data_type": 8, "size": 8, "shape": [SHAPE], "scale": 0.5}
        stage = {"input_tensor": [tensor], "output_tensor": [tensor], "coeff_mem": coefficients, "cmd_group": [group]}
        made.append({"name": name, "parameter": [{**stage, "binary_ir": (len(binary), 0), "io_size": 2**40}]})
    model = {"type": "B", "version": "2.2", "time": "today", "chip": "BM1684X", "net": made, "neuron_size": len(binary)}
    model |= {"kernel_module": {"file_name": "kernel", "binary": (0, len(KERNEL))}, "device_num": 1, **root}
    binary.extend(b"tail")  # of no use to anyone, and part of the file all the same
    description = flatwriter.write(READER, whole_tree(model, "Model"), "Model")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(HEADER.pack(MAGIC, HEADER.size, len(description), len(binary)) + description + binary)
    return path


def whole_tree(node: Any, kind: str) -> Any:
    """With None for the fields that are not given, as the reader has it."""
    if isinstance(node, list):
        return [whole_tree(item, kind) for item in node]
    if not isinstance(node, dict):
        return node
    return {name: whole_tree(node.get(name), spec.strip("[]!")) for name, spec in READER.tables[kind]}


def weights(seed: int, size: int = 50_000) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """The first two have one net's weights in common; the third has two nets with the same ones."""
    nets = ({"a": weights(1)}, {"b": weights(1), "c": weights(2, 300_001)}, {"d": weights(3), "e": weights(3)})
    return [part(tmp_path / f"join.{i}" / f"{i}.bmodel", one) for i, one in enumerate(nets)]


def out(tmp_path: Path) -> Path:
    (tmp_path / "combine.part").mkdir()
    return tmp_path / "combine.part" / "whole.bmodel"


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    """Of a file that the flatbuffers library made by another way."""
    path = tmp_path / "a.bmodel"
    path.write_bytes(files._file(files._describe()))
    model = describe(path)[0]
    assert READER.read(flatwriter.write(READER, model, "Model"), "Model") == model


def test_the_whole_holds_all_nets_and_equal_bytes_once(tmp_path: Path, three: list[Path]) -> None:
    whole = out(tmp_path)
    combine.combine(three, whole, take=False)
    found, wanted = contents(whole), [contents(path) for path in three]
    assert found["net"] == [net for one in wanted for net in one["net"]]
    assert found["neuron_size"] == max(one["neuron_size"] for one in wanted)
    for name in ("type", "version", "time", "chip", "kernel_module", "device_num"):
        assert found[name] == wanted[0][name]
    assert bmodel.read(whole).nets == ("a", "b", "c", "d", "e")
    data = whole.read_bytes()
    for content in (KERNEL, weights(1), weights(2, 300_001), weights(3), b"same" * 9):
        assert data.count(content) == 1
    model, binary = describe(whole)
    assert (len(data) - len(binary)) % combine.ALIGNMENT == 0
    assert all(at % combine.ALIGNMENT == 0 for at, _ in combine._binaries(model))
    assert all(path.exists() for path in three)


@pytest.mark.parametrize("order", [1, -1])
def test_nets_of_one_device_lie_beside_those_that_several_share(tmp_path: Path, order: int) -> None:
    """As model_tool has it (tpu-mlir 1.30.2), whichever comes first."""
    of_devices = [part(tmp_path / f"{n}/{n}.bmodel", {f"net{n}": weights(n)}, device_num=n) for n in (1, 2)]
    whole = out(tmp_path)
    combine.combine(of_devices[::order], whole, take=False)
    assert bmodel.read(whole).devices == 2


def test_what_does_not_make_one_bmodel_is_refused(tmp_path: Path, three: list[Path]) -> None:
    whole, twice = out(tmp_path), part(tmp_path / "t/t.bmodel", {"a": weights(9)})
    with pytest.raises(combine.Unfit, match="several parts hold a"):
        combine.combine([*three, twice], whole, take=True)
    with pytest.raises(combine.Unfit, match="chip is BM1688, and BM1684X in"):
        combine.combine([*three, part(twice, {"f": b"f"}, chip="BM1688")], whole, take=True)
    module = {"file_name": "another", "binary": (0, 100)}
    with pytest.raises(combine.Unfit, match="kernel_module is not the same"):
        combine.combine([*three, part(twice, {"f": b"f"}, kernel_module=module)], whole, take=True)
    twice.write_bytes(three[0].read_bytes()[:-1])
    with pytest.raises(combine.Unfit, match="cut short"):
        combine.combine([*three, twice], whole, take=True)
    twice.write_bytes(three[0].read_bytes()[:64] + bytes(9000))
    with pytest.raises(combine.Unfit, match=r"cut short|corrupt"):
        combine.combine([*three, twice], whole, take=True)
    assert all(path.exists() for path in three), "nothing is taken before all is known to fit"


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(parts, "CHUNK", 10_000)
    return 10_000


def test_parts_go_as_the_whole_grows_and_come_back(
    tmp_path: Path, three: list[Path], small_chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in three}
    whole, peak, plain = out(tmp_path), [0], combine._write
    combine.combine(three, whole, take=False)
    kept = whole.read_bytes()
    whole.unlink()

    def watched(file: int, block: bytes, place: int) -> None:
        plain(file, block, place)
        peak[0] = max(peak[0], sum(p.stat().st_blocks * 512 for p in (*three, whole) if p.exists()))

    monkeypatch.setattr(combine, "_write", watched)
    combine.combine(three, whole, take=True)
    assert whole.read_bytes() == kept
    assert not any(path.exists() for path in three)
    # A chunk lies there twice, and a file system has blocks of 4096 bytes, and one more where it keeps its own account.
    assert peak[0] <= sum(map(len, before.values())) + small_chunks + 16 * 4096
    entries = parts.index([whole.parent])
    for path, content in before.items():
        entry, found = entries[hashlib.sha256(content).hexdigest()]
        assert parts.restore(entry, found, path)
        assert path.read_bytes() == content


def test_a_part_of_which_a_byte_is_lost_does_not_come_back(tmp_path: Path, three: list[Path]) -> None:
    whole, digests = out(tmp_path), [hashlib.sha256(path.read_bytes()).hexdigest() for path in three]
    combine.combine(three, whole, take=True)
    data = bytearray(whole.read_bytes())
    data[data.index(weights(3)) + 7] ^= 4
    whole.write_bytes(data)
    entries = parts.index([whole.parent])
    came = [parts.restore(*entries[digest], path) for digest, path in zip(digests, three, strict=True)]
    assert came == [path.exists() for path in three] == [True, True, False]
    assert not list(tmp_path.rglob(f"*{parts.RESTORED}"))


def test_a_part_with_another_name_is_not_shortened(tmp_path: Path, three: list[Path], small_chunks: int) -> None:
    """As one that another build has as well, or that the shared store keeps."""
    other, content = tmp_path / "other", three[1].read_bytes()
    os.link(three[1], other)
    combine.combine(three, out(tmp_path), take=True)
    assert (three[1].exists(), other.read_bytes()) == (False, content)


class Killed(Exception):
    pass


def moments(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """The same, which dies at its first call, its second, and so on, before or after it did its work."""

    def dying(count: int, late: bool) -> Callable[..., Any]:
        calls = iter(range(count))

        def call(*args: Any, **kwargs: Any) -> Any:
            last = next(calls, None) is None
            made = function(*args, **kwargs) if late or not last else None
            if last:
                raise Killed
            return made

        return call

    for count in range(0, 1000):
        yield dying(count, bool(count % 2))


@pytest.mark.parametrize(("module", "name"), [(combine, "_write"), (os, "pread")], ids=["writing", "reading"])
def test_a_combining_cut_short_at_any_moment_is_undone(
    tmp_path: Path, three: list[Path], small_chunks: int, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    before, whole = {path: path.read_bytes() for path in three}, out(tmp_path)
    taken = set()
    for dies in moments(getattr(module, name)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, dies)
            try:
                combine.combine(three, whole, take=True)
            except Killed:
                taken.add(sum(path.stat().st_size for path in three if path.exists()))
            else:
                break
        parts.undo(whole.parent)
        assert {path: path.read_bytes() for path in three} == before
    assert len(taken) > 20, "it did not die at different moments"


def test_an_undoing_cut_short_is_undone_by_the_next(
    tmp_path: Path, three: list[Path], small_chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, whole = {path: path.read_bytes() for path in three}, out(tmp_path)
    for dies in moments(os.replace):
        combine.combine(three, whole, take=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dies)
            try:
                parts.undo(whole.parent)
                cut = False
            except Killed:
                cut = True
        parts.undo(whole.parent)
        assert {path: path.read_bytes() for path in three} == before
        if not cut:
            break


def test_what_was_lost_of_a_part_makes_it_go(tmp_path: Path, three: list[Path], small_chunks: int) -> None:
    """As after a power cut, when the whole had not reached the disk."""
    content, whole = three[0].read_bytes(), out(tmp_path)
    combine.combine(three, whole, take=True)
    data = whole.read_bytes()
    whole.write_bytes(data.replace(weights(3), bytes(50_000)))
    parts.undo(whole.parent)
    assert [path.exists() for path in three] == [True, True, False]
    assert three[0].read_bytes() == content
    with (whole.parent / parts.INDEX).open("a") as index:
        index.write('{"file": "../join.9/9.bmo')
    assert len(parts.read(whole.parent)[1]) == 3


ROOT = Path(__file__).parent.parent.parent
MAKE = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.compile.test_combine import part, weights
"""
MARK = "open('../../runs', 'a').write('{0}\\n'); "


def joined(folder: Path, seeds: str = "123", store: bool = True, size: int = 50_000) -> Plan:
    """Three parts of one net each, and their combining."""
    made = [
        replace(
            step(
                f"join.{i}",
                MAKE + MARK.format(i) + f"part(Path('{i}.bmodel'), {{'net{i}': weights({seed}, {size})}})",
                outputs=(f"{i}.bmodel",),
            ),
            passing=("*",),
        )
        for i, seed in enumerate(seeds)
    ]
    words = (f"../join.{i}/{i}.bmodel" for i in range(len(seeds)))
    last = Step(
        "combine",
        (("python", "-m", "compile.combine", "whole.bmodel", *words),),
        tuple(f"join.{i}/{i}.bmodel" for i in range(len(seeds))),
        ("whole.bmodel", parts.INDEX),
        "exporter",
        takes=True,
    )
    return replace(small_plan(folder, *made, last), store=folder.parent / ".steps" if store else None)


def ran(plan: Plan) -> str:
    """The parts that were made since it was last asked."""
    marks = plan.folder / "runs"
    found = "".join(sorted(marks.read_text().split())) if marks.exists() else ""
    marks.unlink(missing_ok=True)
    return found


def there(plan: Plan) -> list[str]:
    return sorted(str(p.relative_to(plan.folder / "work")) for p in plan.folder.glob("work/*/*.bmodel"))


@pytest.mark.slow
def test_a_build_needs_no_part_anew_but_the_one_that_changed(tmp_path: Path) -> None:
    plan = joined(tmp_path / "build")
    run(plan)
    assert (ran(plan), there(plan)) == ("012", ["combine/whole.bmodel"])
    run(plan)
    assert ran(plan) == ""
    changed = joined(tmp_path / "build", "153")
    run(changed)
    assert (ran(changed), there(changed)) == ("1", ["combine/whole.bmodel"])
    undisturbed = joined(tmp_path / "other" / "build", "153")
    run(undisturbed)
    assert outputs(changed.folder) == outputs(undisturbed.folder)
    # Another build beside it, without its combining: parts are found in the shared store's wholes.
    beside = joined(tmp_path / "beside", "157")
    run(beside)
    assert ran(beside) == "2"


@pytest.mark.slow
def test_a_byte_of_the_whole_costs_the_part_that_it_belongs_to(tmp_path: Path) -> None:
    plan = joined(tmp_path / "build", store=False)
    run(plan)
    wanted, whole = outputs(plan.folder), plan.folder / "work/combine/whole.bmodel"
    ran(plan)
    data = bytearray(whole.read_bytes())
    data[data.index(weights(2)) + 7] ^= 4
    whole.write_bytes(data)
    run(plan)
    assert ran(plan) == "1"
    assert outputs(plan.folder) == wanted


@pytest.mark.slow
def test_a_build_killed_while_it_combines_makes_no_part_again(tmp_path: Path) -> None:
    plan = joined(tmp_path / "build", size=2_000_000)
    run(plan)
    wanted = outputs(plan.folder)
    torn = joined(tmp_path / "torn", store=False, size=2_000_000)
    for number, moment in enumerate((4, 7, 10, 13)):  # pieces that the combining has copied when it kills itself
        code = (
            "import os, sys; from compile import combine, parts; parts.CHUNK = 700_000; count = [0]; plain = os.pread\n"
            f"def dies(*a):\n count[0] += 1\n if count[0] > {moment}: os.kill(os.getpid(), 9)\n return plain(*a)\n"
            "os.pread = dies; combine.main(sys.argv[1:])"
        )
        last = torn.steps[-1]
        dying = replace(last, commands=((last.commands[0][0], "-c", code, *last.commands[0][3:]),))
        assert end(start(lambda dying=dying: run(replace(torn, steps=(*torn.steps[:-1], dying))))) == 1  # type: ignore[misc]
        left = [path.stat().st_size for path in torn.folder.glob("work/join.*/*.bmodel")]
        assert sum(left) < 3 * 2_000_000, "nothing was taken"
        assert ran(torn) == ("012" if number == 0 else "")
    run(torn)
    assert ran(torn) == ""
    assert outputs(torn.folder) == wanted
    assert not list(torn.folder.glob("work/*.part"))


@pytest.mark.slow
def test_a_disk_that_holds_the_whole_but_once(tmp_path: Path) -> None:
    """Six parts of 4 MB on a disk of 30 MB."""
    with small_disk(tmp_path / "disk", "30m") as disk:
        plan = joined(disk / "build", "123456", store=False, size=4_000_000)
        run(replace(plan, steps=(*plan.steps[:-1], chunked(plan.steps[-1]))))
        assert (plan.folder / "work/combine/whole.bmodel").stat().st_size > 24_000_000


def chunked(last: Step) -> Step:
    code = "import sys; from compile import combine, parts; parts.CHUNK = 1 << 20; combine.main(sys.argv[1:])"
    return replace(last, commands=((last.commands[0][0], "-c", code, *last.commands[0][3:]),))
