"""A recipe, a spec and options to the steps of a build: what to run, on which files, in which order.

Pure: it reads no file, starts nothing and prints nothing. compile.executor runs a plan, compile.script writes it down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile import deploy, estimate
from contract import graphs
from contract.errors import UserError, one_of
from contract.ladder import POSITIONS
from contract.modes import DEVICES, MODES
from contract.options import BUILD, folder_name
from exporters.architecture import find

if TYPE_CHECKING:
    from exporters.spec import DecoderSpec
    from recipes.recipe import Recipe

EXPORTER, COMPILER = "exporter", "compiler"
STORE = ".steps"
TRACE, PARITY, COMBINE = "trace", "parity", "combine"
WEIGHTS = "weights.npz"
REBIND = Path(__file__).with_name("rebind.py")


@dataclass(frozen=True)
class Options:
    """What decides the bytes of a bmodel: the values of contract.options.BUILD."""

    mode: str
    chip: str
    devices: int
    seq_length: int
    sample: bool
    group_size: int


def settle(recipe: Recipe, chosen: Mapping[str, Any]) -> Options:
    """The user's values (None: not said), else the recipe's, else what is usual. UserError for one that is none."""
    values = {}
    for option in BUILD:
        said = [chosen.get(option.name), recipe.option(option.name), option.default]
        values[option.name] = next(value for value in said if value is not None)
        option.check(values[option.name], option.flag)
    return Options(**values)


@dataclass(frozen=True)
class Step:
    """Commands run one after the other in a folder of the step's own, `work/<name>`.

    `inputs`: "<step>/<file>", "<step>/" for all that a step made, or an absolute path (a folder stands for the files
    in it). `outputs`: file names or patterns in the step's folder; each must match, and what none matches is dropped.
    `where`: the environment, EXPORTER or COMPILER. `memory`: bytes the step may need at its peak.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    where: str
    memory: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """The steps whose files it reads."""
        return tuple(dict.fromkeys(i.partition("/")[0] for i in self.inputs if not i.startswith("/")))


@dataclass(frozen=True)
class Plan:
    """`folder`: the build folder. `steps`: each after those it needs; of steps that could start, the first goes
    first. `nets`: every net, in the order of execution. `disk`: bytes that the folder may grow to. `store`: where
    finished steps are shared with other builds (compile.store); None where they are not."""

    folder: Path
    steps: tuple[Step, ...]
    nets: tuple[graphs.GraphSpec, ...]
    disk: int
    store: Path | None = None

    @property
    def bmodel(self) -> str:
        return f"{self.folder.name}.bmodel"


def make_plan(
    recipe: Recipe, spec: DecoderSpec, model_dir: Path, out: Path, options: Options, trust: bool = False
) -> Plan:
    """The plan of one build in `out`. UserError for options that the chip, the compiler or the model refuse. `trust`:
    the checkpoint's own code may run."""
    _check_sizes(spec, options)
    if any(recipe.quantize(kind, options.mode).startswith("W4") for kind in graphs.KINDS):
        _check_group(spec, options)
    geometry = spec.geometry(options.seq_length, MODES[options.mode].half)
    nets = graphs.decoder_graphs(geometry, not options.sample)
    folder = out.absolute() / folder_name(recipe.name, asdict(options), asdict(settle(recipe, {})))
    build = _Build(recipe, spec, str(model_dir.absolute()), options, nets, trust)
    steps = (
        build.trace(),
        *(build.bind(group) for group in build.groups()),
        build.parity(),
        *build.templates(),
        *(build.net(net) for net in sorted(nets, key=lambda n: n.layer is not None)),  # the largest nets first
        build.combine(f"{folder.name}.bmodel"),
    )
    store = folder.parent / STORE
    return Plan(folder, steps, nets, estimate.disk(spec, options.mode, options.seq_length), store)


def _check_sizes(spec: DecoderSpec, options: Options) -> None:
    if options.seq_length > spec.max_positions:
        remedy = f"use 1 to {spec.max_positions}, the model's limit"
        raise UserError(f"{options.seq_length} positions cannot be built", "--seq-length", remedy)
    if options.devices > 1 and not find(spec.model_type).devices:
        what = f"attention of {spec.model_type} models cannot be split over devices"
        raise UserError(what, "--devices", "use 1")
    if spec.heads % options.devices or spec.kv_heads % options.devices:
        fits = [n for n in DEVICES if spec.heads % n == spec.kv_heads % n == 0]
        heads = f"{spec.heads} heads and {spec.kv_heads} KV heads"
        raise UserError(f"{heads} cannot be split over {options.devices} devices", "--devices", f"use {one_of(fits)}")


def _check_group(spec: DecoderSpec, options: Options) -> None:
    """A group must fill whole channels, on one device: else the compiler pads it, or leaves the net unsplit."""
    widths = _widths(spec, options.devices)
    fits = [g for g in (128, 64, 32) if all(width % g == 0 for width in widths.values())]
    for what, width in widths.items():
        if width % options.group_size:
            per = f" per device ({width})" if options.devices > 1 and what != "hidden size" else f" ({width})"
            remedy = f"use {one_of(fits)}" if fits else "use MODE=int8"
            raise UserError(f"group size {options.group_size} does not divide the {what}{per}", "--group-size", remedy)


def _widths(spec: DecoderSpec, devices: int) -> dict[str, int]:
    """Input channels of a block's linear layers, on one device."""
    return {name: width if name == "hidden size" else width // devices for name, width in spec.widths}


def eight_bit_group(spec: DecoderSpec, devices: int, kind: str) -> int:
    """The largest group of at most 128 channels that divides every width of a net.

    128 takes 1.6 % fewer cycles than 64 in decode (0.5B sizes) and is finer than one scale a channel.
    """
    widths = [spec.hidden] if kind == graphs.LM_HEAD else _widths(spec, devices).values()
    common = gcd(*widths)
    return max(size for size in range(1, 129) if common % size == 0)


def parity_command(model: str, seq_length: int, devices: int, prompt: str, trust: bool) -> tuple[str, ...]:
    """The host's rungs of the ladder; it finds the bind steps' folders beside its own."""
    sizes = ("--seq-length", str(seq_length), "--devices", str(devices), "--positions", str(POSITIONS))
    return _exporter("parity", model, "--graphs", "..", "--prompt", prompt, *sizes, *_trust(trust))


def _trust(given: bool) -> tuple[str, ...]:
    return _switch("trust-remote-code", given)


def _switch(name: str, on: bool) -> tuple[str, ...]:
    return (f"--{name}",) if on else ()


def _exporter(command: str, model: str, *rest: str) -> tuple[str, ...]:
    return ("python", "-m", "exporters", command, "--model", model, *rest)


@dataclass(frozen=True)
class _Build:
    """The steps of one build."""

    recipe: Recipe
    spec: DecoderSpec
    model: str
    options: Options
    nets: tuple[graphs.GraphSpec, ...]
    trust: bool

    def groups(self) -> tuple[str, ...]:
        return ("embedding", "head", *(f"layer_{i}" for i in range(self.spec.layers)))

    def trace(self) -> Step:
        o = self.options
        sizes = ("--seq-length", str(o.seq_length), "--devices", str(o.devices))
        command = _exporter("trace", self.model, *sizes, *_switch("sample", o.sample), *_trust(self.trust))
        return Step(TRACE, (command,), (self.model,), ("bindings.json", "*"), EXPORTER, 2**30)

    def bind(self, group: str) -> Step:
        command = _exporter("bind", self.model, "--skeletons", f"../{TRACE}", "--group", group)
        outputs = (*(f"{n.name}.onnx" for n in self.nets if _group(n) == group), WEIGHTS)
        memory = 2**28 + 3 * estimate.group_bytes(self.spec, group)
        return Step(_bind_step(group), (command,), (self.model, f"{TRACE}/"), outputs, EXPORTER, memory)

    def parity(self) -> Step:
        o = self.options
        command = parity_command(self.model, o.seq_length, o.devices, self.recipe.prompt, self.trust)
        inputs = (self.model, *(f"{_bind_step(group)}/" for group in self.groups()))
        outputs = ("parity.json", "reference/tokens.json", *(f"reference/{n.name}.npz" for n in self.nets))
        return Step(PARITY, (command,), inputs, outputs, EXPORTER, estimate.parity_memory(self.spec))

    def templates(self) -> tuple[Step, ...]:
        """One model_transform for each distinct graph of a layer (compile.rebind)."""
        kinds = sorted(set(self.spec.layer_kinds))
        return tuple(self._template(net, kind) for kind in kinds for net in (graphs.BLOCK, graphs.BLOCK_CACHE))

    def _template(self, net: str, kind: int) -> Step:
        layer = self.spec.layer_kinds.index(kind)
        onnx, weights = (f"{_bind_step(f'layer_{layer}')}/{file}" for file in (f"{net}_{layer}.onnx", WEIGHTS))
        commands = (
            deploy.transform(net, f"../{onnx}"),
            ("python3", "-I", str(REBIND), "seal", net, f"../{onnx}", f"../{weights}"),
        )
        outputs = (f"{net}.mlir", "template.json")
        memory = estimate.transform_memory(self.spec, f"layer_{layer}")
        return Step(_template_name(net, kind), commands, (onnx, weights), outputs, COMPILER, memory)

    def net(self, net: graphs.GraphSpec) -> Step:
        """ONNX to a bmodel of one net."""
        o, name, group = self.options, net.name, _group(net)
        onnx, weights = f"{_bind_step(group)}/{name}.onnx", f"{_bind_step(group)}/{WEIGHTS}"
        inputs: tuple[str, ...] = (onnx, weights)
        first = deploy.transform(name, f"../{onnx}")
        memory = estimate.transform_memory(self.spec, group)
        if net.layer is not None:
            template = _template_name(net.kind, self.spec.layer_kinds[net.layer])
            share = ("bind", f"../{template}", f"../{onnx}", f"../{weights}", name, "--")
            first = ("python3", "-I", str(REBIND), *share, *first)
            inputs = (f"{template}/", *inputs)
            memory = estimate.deploy_memory(self.spec, group)
        quantize = self.recipe.quantize(net.kind, o.mode)
        group_size = o.group_size if quantize.startswith("W4") else eight_bit_group(self.spec, o.devices, net.kind)
        target = deploy.Target(o.chip, o.devices, group_size, self.spec.layer_norm)
        second = deploy.deploy(net, quantize, target)
        profile = () if net.kind in (graphs.GREEDY_HEAD, graphs.SAMPLE_HEAD) else ("compiler_profile_*.txt",)
        outputs = (f"{name}.bmodel", f"{name}/final.mlir", *profile)
        return Step(net.name, (first, second), inputs, outputs, COMPILER, memory)

    def combine(self, bmodel: str) -> Step:
        files = tuple(f"{n.name}/{n.name}.bmodel" for n in deploy.combine_order(self.nets))
        command = deploy.combine(tuple(f"../{file}" for file in files), bmodel)
        return Step(COMBINE, (command,), files, (bmodel,), COMPILER, 2**30)


def _group(net: graphs.GraphSpec) -> str:
    """The bind step that holds a net: nets of a group share one weight file."""
    if net.layer is not None:
        return f"layer_{net.layer}"
    return "embedding" if net.kind in (graphs.EMBEDDING, graphs.EMBEDDING_CACHE) else "head"


def _template_name(kind: str, number: int) -> str:
    return f"transform.{kind}.{number}"


def _bind_step(group: str) -> str:
    return f"bind.{group}"
