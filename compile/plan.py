"""A recipe, a spec and options to the steps of a build: what to run, on which files, in which order.

Pure: it reads no file, starts nothing and prints nothing. compile.executor runs a plan, compile.script writes it down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile import deploy, estimate, lengths, quantization, sizes, vendor, vision
from contract import graphs
from contract.ladder import POSITIONS
from contract.options import BUILD, folder_name
from contract.vision import PICTURES

if TYPE_CHECKING:
    from exporters.spec import DecoderSpec
    from recipes.recipe import Recipe

EXPORTER, COMPILER = "exporter", "compiler"
STORE = ".steps"
TRACE, PARITY, COMBINE, CONVERT = "trace", "parity", "combine", "convert"
WEIGHTS, GRIDS = "weights.npz", "grids.npz"
REBIND, REGRID = (Path(__file__).with_name(name) for name in ("rebind.py", "regrid.py"))
NORMALISE = Path(__file__).with_name("normalise.py")


@dataclass(frozen=True)
class Options:
    """What decides the bytes of a bmodel: the values of contract.options.BUILD."""

    mode: str
    chip: str
    devices: int
    seq_length: int
    sample: bool
    group_size: int
    symmetric: bool
    head: str | None
    adapter: str | None
    route: str
    input_length: int | None
    history: bool
    dynamic: bool
    max_pixels: str | None
    vit: str | None
    dynamic_vit: bool

    @property
    def prefill_length(self) -> int:
        """Positions of a prefill net; 0 for all of the sequence."""
        return lengths.input_length(self.seq_length, self.input_length, self.history)


def settle(recipe: Recipe, chosen: Mapping[str, Any]) -> Options:
    """The user's values (None: not said), else the recipe's, else what is usual. UserError for one that is none."""
    values: dict[str, Any] = {}
    for option in BUILD:
        said = [chosen.get(option.name), recipe.option(option.name), option.default]
        values[option.name] = next((value for value in said if value is not None), None)
        if values[option.name] is not None:
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
    recipe: Recipe,
    spec: DecoderSpec,
    model_dir: Path,
    out: Path,
    options: Options,
    trust: bool = False,
    grid: int = 0,
) -> Plan:
    """The plan of one build in `out`. UserError for options that the chip, the compiler or the model refuse. `trust`:
    the checkpoint's own code may run. `grid`: bits of the levels that the checkpoint's layers keep; 0: none."""
    options = vision.settle(spec, options)
    vision.check(spec, options)
    sizes.check(spec, options)
    lengths.check(spec, options)
    quantization.check(recipe, spec, options)
    if options.route == vendor.ROUTE:
        vendor.check(spec, options)
    geometry = spec.geometry(options.seq_length, quantization.half(spec, options), options.prefill_length)
    nets = graphs.decoder_graphs(geometry, not options.sample, options.history) + vision.nets(spec, options, geometry)
    folder = out.absolute() / folder_name(recipe.name, asdict(options), asdict(settle(recipe, {})))
    build = _Build(recipe, spec, str(model_dir.absolute()), options, nets, trust, grid)
    if options.route == vendor.ROUTE:
        own = [net for net in nets if net.kind in vendor.NOT_TAKEN]
        taken = [net for net in nets if net not in own]
        making: tuple[Step, ...] = (build.convert(taken), *map(build.taken, taken), *map(build.net, own))
    else:
        largest_first = sorted(nets, key=lambda n: n.layer is not None)
        making = (*build.templates(), *(build.net(net) for net in largest_first))
    steps = (
        build.trace(),
        *(build.bind(group) for group in build.groups()),
        build.parity(),
        *making,
        build.combine(f"{folder.name}.bmodel"),
    )
    store = folder.parent / STORE
    return Plan(folder, steps, nets, estimate.disk(spec, options.mode, options.seq_length, options.history), store)


def parity_command(model: str, options: Mapping[str, Any], prompt: str, trust: bool) -> tuple[str, ...]:
    """The host's rungs of the ladder; it finds the bind steps' folders beside its own. `options`: asdict(Options)."""
    sizes = (*_sizes(options), "--positions", str(POSITIONS), *_adapter(options.get("adapter")))
    sizes += _switch("norm-in-layer", options.get("route") == vendor.ROUTE)
    return _exporter("parity", model, "--graphs", "..", "--prompt", prompt, *sizes, *_trust(trust))


def _sizes(options: Mapping[str, Any]) -> tuple[str, ...]:
    """What trace and parity must be told alike."""
    length, devices = options["seq_length"], options["devices"]
    prefill = lengths.flags(length, options.get("input_length"), options.get("history", False))
    pixels = options.get("max_pixels")
    largest = ("--max-pixels", pixels) if pixels else ()
    return ("--seq-length", str(length), "--devices", str(devices), *prefill, *largest)


def _adapter(folder: str | None) -> tuple[str, ...]:
    return ("--adapter", folder) if folder else ()


def _trust(given: bool) -> tuple[str, ...]:
    return _switch("trust-remote-code", given)


def _normalise(bmodel: str) -> tuple[str, ...]:
    return ("python3", "-I", str(NORMALISE), bmodel)


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
    grid: int

    def groups(self) -> tuple[str, ...]:
        tower = (graphs.VIT,) if self.spec.vision else ()
        return ("embedding", "head", *tower, *(f"layer_{i}" for i in range(self.spec.layers)))

    def weights(self) -> tuple[str, ...]:
        """The folders that the model's weights come from."""
        return (self.model, self.options.adapter) if self.options.adapter else (self.model,)

    def trace(self) -> Step:
        o = self.options
        command = _exporter("trace", self.model, *_sizes(asdict(o)), *_switch("sample", o.sample), *_trust(self.trust))
        return Step(TRACE, (command,), (self.model,), ("bindings.json", "*"), EXPORTER, 2**30)

    def bind(self, group: str) -> Step:
        grids = self.grid > 0 and group.startswith("layer_")
        adapter = self.options.adapter
        words = ("--skeletons", f"../{TRACE}", "--group", group, *_switch("grids", grids), *_adapter(adapter))
        command = _exporter("bind", self.model, *words)
        outputs = (*(f"{n.name}.onnx" for n in self.nets if _group(n) == group), WEIGHTS, *((GRIDS,) if grids else ()))
        memory = 2**28 + 3 * estimate.group_bytes(self.spec, group)
        return Step(_bind_step(group), (command,), (*self.weights(), f"{TRACE}/"), outputs, EXPORTER, memory)

    def parity(self) -> Step:
        command = parity_command(self.model, asdict(self.options), self.recipe.prompt, self.trust)
        inputs = (*self.weights(), *(f"{_bind_step(group)}/" for group in self.groups()))
        shown = (f"reference/{PICTURES}",) if self.spec.vision else ()
        outputs = ("parity.json", "reference/tokens.json", *shown, *(f"reference/{n.name}.npz" for n in self.nets))
        return Step(PARITY, (command,), inputs, outputs, EXPORTER, estimate.parity_memory(self.spec))

    def templates(self) -> tuple[Step, ...]:
        """One model_transform for each distinct graph of a layer (compile.rebind)."""
        kinds = sorted(set(self.spec.layer_kinds))
        nets = tuple(dict.fromkeys(net.kind for net in self.nets if net.layer is not None))
        return tuple(self._template(net, kind) for kind in kinds for net in nets)

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
        quantize = quantization.word(self.recipe, self.spec, o, net.kind, self.grid)
        group_size = quantization.group_size(self.spec, o, net.kind, quantize)
        target = deploy.Target(
            o.chip, o.devices, group_size, self.spec.layer_norm, o.symmetric, o.dynamic, o.dynamic_vit
        )
        commands = [first, deploy.deploy(net, quantize, target), _normalise(f"{name}.bmodel")]
        if self.grid and net.layer is not None:
            grids = f"{_bind_step(group)}/{GRIDS}"
            commands.insert(1, ("python3", "-I", str(REGRID), name, f"../{grids}", str(self.grid), str(o.group_size)))
            inputs = (*inputs, grids)
        uncounted = (graphs.GREEDY_HEAD, graphs.SAMPLE_HEAD, *(deploy.PREFILL if o.dynamic else ()))
        profile = () if net.kind in uncounted else ("compiler_profile_*.txt",)
        outputs = (f"{name}.bmodel", f"{name}/final.mlir", *profile)
        return Step(net.name, tuple(commands), inputs, outputs, COMPILER, memory)

    def convert(self, nets: Sequence[graphs.GraphSpec]) -> Step:
        """All of these at once, by the vendor's converter."""
        outputs = tuple(file for net in nets for file in vendor.outputs(net))
        memory = estimate.parity_memory(self.spec)
        commands = vendor.convert(self.model, self.spec, self.options)
        return Step(CONVERT, commands, (self.model,), outputs, COMPILER, memory)

    def taken(self, net: graphs.GraphSpec) -> Step:
        """A net of the vendor's, as `net` leaves one of ours."""
        outputs = tuple(file.removeprefix(f"{net.name}/") for file in vendor.outputs(net))
        copy = ("cp", "-r", f"../{CONVERT}/{net.name}/.", ".")
        return Step(net.name, (copy, _normalise(f"{net.name}.bmodel")), (f"{CONVERT}/",), outputs, COMPILER)

    def combine(self, bmodel: str) -> Step:
        files = tuple(f"{n.name}/{n.name}.bmodel" for n in deploy.combine_order(self.nets))
        command = deploy.combine(tuple(f"../{file}" for file in files), bmodel)
        return Step(COMBINE, (command, _normalise(bmodel)), files, (bmodel,), COMPILER, 2**30)


def _group(net: graphs.GraphSpec) -> str:
    """The bind step that holds a net: nets of a group share one weight file."""
    if net.layer is not None:
        return f"layer_{net.layer}"
    if net.kind in (graphs.VIT, graphs.ADD):
        return graphs.VIT
    return "embedding" if net.kind in (graphs.EMBEDDING, graphs.EMBEDDING_CACHE) else "head"


def _template_name(kind: str, number: int) -> str:
    return f"transform.{kind}.{number}"


def _bind_step(group: str) -> str:
    return f"bind.{group}"
