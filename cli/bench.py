"""`bench`: what a build and the exporter take, on checkpoints of real sizes that are made up on the spot.

`build` and `plan` need weights that a quantiser has work with: random ones. `export` does not: its checkpoint is a
sparse file of zeros, which takes no room on the disk and reads as any other.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from cli.peaks import Disk, Memory
from contract.errors import UserError

SEQ = 512
MB = 10**6
ALLOWANCE = 700 * MB  # of the exporter, beside its weights: Python, torch and transformers
_CONFIG: dict[str, Any] = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "bfloat16"}
_CONFIG |= {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "hidden_act": "silu", "rope_theta": 1e6}
SIZES: dict[str, dict[str, Any]] = {  # Qwen2's published ones
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2}
    | {"vocab_size": 151936, "num_hidden_layers": 24, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4}
    | {"vocab_size": 152064, "num_hidden_layers": 28, "tie_word_embeddings": False},
}
_THEIRS = {"int4": "w4bf16", "int8": "w8bf16", "bf16": "bf16"}  # modes, and llm_convert's words for them
_RECIPE = """\
name: {name}
architecture: qwen2
source: {{hub: made/up}}
seq_length: {seq}
mode: int4
group_size: 64
prompt: "Hello"
"""


@dataclass(frozen=True)
class Cost:
    """`memory`: bytes of the largest process. `cpu`: seconds of all processes, in user mode and in the kernel."""

    wall: float
    cpu: float
    memory: int


def add_parsers(subparsers: Any) -> None:
    """Registers the command; it sets `run`, a function of the parsed arguments that gives the exit code."""
    bench = subparsers.add_parser("bench", help="measure a build, or the exporter, on a checkpoint of real sizes")
    what = "a whole build; the exporter's memory; or what is foretold of a build, and what it then takes"
    bench.add_argument("what", choices=("build", "export", "plan"), help=what)
    bench.add_argument("--size", choices=SIZES, default="0.5b", help="Qwen2's sizes (default: 0.5b)")
    bench.add_argument("--layers", type=int, help="how many (default: the model's own)")
    bench.add_argument("--mode", choices=_THEIRS, default="int4", help="`build` only (default: int4)")
    bench.add_argument("--beside", action="store_true", help="`build` only: the vendor's llm_convert as well")
    bench.add_argument("--scratch", type=Path, help="where checkpoint and build go (default: the system's)")
    bench.set_defaults(run=_bench)


def checkpoint(folder: Path, config: Mapping[str, Any], random: bool, seed: int = 0) -> Path:
    """Write a checkpoint of `config`'s sizes in bfloat16: random weights, or a sparse file of zeros."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**_CONFIG, **config}), encoding="utf-8")
    header: dict[str, Any] = {}
    end = 0
    for name, shape in tensors(config):
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end := end + 2 * prod(shape)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, (name, shape) in enumerate(tensors(config) if random else ()):  # equal layers would be stored once
            file.write(_random(shape, name.endswith("norm.weight"), (seed, number)))
        file.truncate(8 + len(text) + end)
    return folder


def tensors(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Qwen2's."""
    hidden, inter = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            yield f"model.layers.{layer}.self_attn.{name}_proj.weight", (rows, hidden)
            yield f"model.layers.{layer}.self_attn.{name}_proj.bias", (rows,)
        yield f"model.layers.{layer}.self_attn.o_proj.weight", (hidden, hidden)
        for name, shape in (("gate", (inter, hidden)), ("up", (inter, hidden)), ("down", (hidden, inter))):
            yield f"model.layers.{layer}.mlp.{name}_proj.weight", shape
        for name in ("input", "post_attention"):
            yield f"model.layers.{layer}.{name}_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def _random(shape: tuple[int, ...], norm: bool, seed: tuple[int, int]) -> bytes:
    import numpy as np

    values = 0.02 * np.random.default_rng(seed).standard_normal(shape, np.float32) + norm
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()  # bfloat16 is float32's upper half


# Linux counts what a process was before it became another program: started by a large one, all would look as large.
_MEASURE = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([used.ru_utime + used.ru_stime, used.ru_maxrss * 1024], file)
sys.exit(code != 0)
"""


def cost(command: list[str], cwd: Path, env: Mapping[str, str] | None = None) -> Cost:
    """Run it. RuntimeError with its last line where it fails."""
    with tempfile.TemporaryFile() as log, tempfile.NamedTemporaryFile("r") as used:
        start = time.monotonic()
        measured = [sys.executable, "-c", _MEASURE, used.name, *command]
        if subprocess.run(measured, cwd=cwd, env=env, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"{' '.join(command[:4])} failed: {''.join(last)}")
        took = time.monotonic() - start
        return Cost(took, *json.load(used))


def export(model: Path, config: Mapping[str, Any], work: Path) -> tuple[int, int]:
    """Bytes that the exporter's largest process took, and the bytes that it may take."""
    command = [sys.executable, "-m", "exporters"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    (work / "trace").mkdir()
    traced = cost([*command, "trace", "--model", str(model), "--seq-length", str(SEQ)], work / "trace", env)
    most = traced.memory
    for group in ("embedding", "head", *(f"layer_{i}" for i in range(config["num_hidden_layers"]))):
        out = work / "bind"
        out.mkdir()
        words = ["bind", "--model", str(model), "--skeletons", "../trace", "--group", group]
        most = max(most, cost([*command, *words], out, env).memory)
        shutil.rmtree(out)
    table = prod(dict(tensors(config))["model.embed_tokens.weight"])
    return most, 4 * table + 2 * layer_bytes(config) + ALLOWANCE


def layer_bytes(config: Mapping[str, Any]) -> int:
    """Of one layer in float32."""
    return sum(4 * prod(shape) for name, shape in tensors(config) if name.startswith("model.layers.0."))


def recipe(work: Path, name: str) -> Path:
    path = work / f"{name}.yaml"
    path.write_text(_RECIPE.format(name=name, seq=SEQ), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Build:
    """`kinds`: seconds of the steps, by kind."""

    cost: Cost
    kinds: Mapping[str, float]
    disk: Disk
    memory: Memory


def build(model: Path, work: Path, name: str = "bench", mode: str = "int4") -> Build:
    with Disk(work / "out") as disk, Memory() as memory:
        took = run(model, work, name, mode)
    kinds: dict[str, float] = defaultdict(float)
    for step, seconds in json.loads(manifest(work, name).read_text(encoding="utf-8"))["seconds"].items():
        if step != "wall":
            kinds[re.sub(r"_?\d+$", "", step)] += seconds
    return Build(took, kinds, disk, memory)


def manifest(work: Path, name: str = "bench") -> Path:
    (found,) = (work / "out").glob(f"{name}_*/manifest.json")
    return found


def run(model: Path, work: Path, name: str = "bench", mode: str = "int4") -> Cost:
    """A build without verification; where it is done already, one that has nothing to do."""
    words = ["build", str(recipe(work, name)), "--model", str(model), "--out", str(work / "out"), "--verify", "none"]
    words += ["--mode", mode]
    return cost([sys.executable, "-m", "cli.main", *words], Path(__file__).parent.parent)


def convert(model: Path, work: Path, mode: str) -> Cost:
    """What llm_convert takes for the same."""
    from compile import toolchain

    env = toolchain.find().runner.environment()
    words = ["-m", str(model), "-s", str(SEQ), "-q", _THEIRS[mode], "-g", "64", "-c", "bm1684x"]
    words += ["-o", str(work / "theirs")]
    env = {name: value for name, value in env.items() if name != "OMP_NUM_THREADS"}  # as its users have it
    return cost([shutil.which("llm_convert.py", path=env["PATH"]) or "llm_convert.py", *words], work, env)


def _bench(args: argparse.Namespace) -> int:
    if args.beside and args.what != "build":
        raise UserError("llm_convert has no exporter of its own", "--beside", "use it with `bench build`")
    if args.mode != "int4" and args.what != "build":
        raise UserError(f"bench {args.what} knows one mode", "--mode", "use it with `bench build`")
    if args.layers is not None and args.layers < 1:
        raise UserError(f'"{args.layers}" is no number of layers', "--layers", "give 1 or more")
    config = {**SIZES[args.size], **({"num_hidden_layers": args.layers} if args.layers else {})}
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        work = Path(scratch)
        title = f"Qwen2 of {args.size} sizes, {config['num_hidden_layers']} layers, SEQ {SEQ}"
        if args.what == "plan":
            from cli import bench_plan

            print(f"{title}, int4", flush=True)
            return int(not bench_plan.compare(config, work))
        model = checkpoint(work / "checkpoint", config, args.what == "build")
        if args.what == "export":
            most, bound = export(model, config, work)
            print(f"{title}: the exporter's largest process took {most / MB:.0f} MB, may take {bound / MB:.0f} MB")
            return int(most > bound)
        made = build(model, work, mode=args.mode)
        took, disk = made.cost, made.disk
        _print(f"{title}, {args.mode}: hf2bmodel", took)
        print(f"  memory of all processes at its peak {made.memory.most / MB:.0f} MB")
        allowed = 1.3 * sum(2 * prod(shape) for _, shape in tensors(config)) + 4 * layer_bytes(config)
        print(f"  disk at its peak {disk.most / MB:.0f} MB, of {allowed / MB:.0f} MB that it may take")
        print("".join(f"    {size / MB:7.1f} MB  {name}\n" for size, name in disk.files), end="")
        for kind, seconds in sorted(made.kinds.items(), key=lambda item: -item[1]):
            print(f"  {seconds:6.1f} s  {kind}")
        print(f"the same again, with nothing to do: {run(model, work, mode=args.mode).wall:.1f} s")
        if args.beside:
            theirs = convert(model, work, args.mode)
            _print("llm_convert", theirs)
            print(f"wall {took.wall / theirs.wall:.2f} x, CPU {took.cpu / theirs.cpu:.2f} x llm_convert's")
    return 0


def _print(who: str, took: Cost) -> None:
    print(f"{who}: {took.wall:.1f} s, {took.cpu:.1f} s of CPU, largest process {took.memory / MB:.0f} MB", flush=True)
