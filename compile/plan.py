"""A recipe, a spec and options to the steps of a build: what to run, on which files, in which order.

Pure: it reads no file, starts nothing and prints nothing. compile.executor runs a plan, compile.script writes it down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile import deploy, estimate, exporter, lengths, names, parts, quantization, sizes, vendor, vision
from compile.steps import COMPILER, EXPORTER, Plan, Step
from contract import graphs, towers
from contract.ladder import PICTURES
from contract.options import BUILD, folder_name

if TYPE_CHECKING:
    from exporters.spec import DecoderSpec
    from recipes.recipe import Recipe

TABLES = (graphs.EMBEDDING, graphs.EMBEDDING_CACHE, graphs.LM_HEAD)  # nets that hold the vocabulary's table
STORE = ".steps"
TRACE, TABLE, POSITIONS, PARITY, COMBINE, CONVERT = "trace", "table", "positions", "parity", "combine", "convert"
WEIGHTS, GRIDS = "weights.npz", "grids.npz"
REBIND, REGRID = (Path(__file__).with_name(name) for name in ("rebind.py", "regrid.py"))
# What the combining does is also what these say; it needs no compiler.
COMBINER = tuple(Path(__file__).with_name(name) for name in ("combine.py", "flatwriter.py", "parts.py"))


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
    lora: int | None
    route: str
    input_length: int | None
    history: bool
    dynamic: bool
    max_pixels: str | None
    vit: str | None
    dynamic_vit: bool
    batch: int
    embed: str

    @property
    def host_embedding(self) -> bool:
        return self.embed == "disk"

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
    geometry = sizes.geometry(spec, options, quantization.half(spec, options))
    decoder = graphs.decoder_graphs(geometry, not options.sample, options.history, options.host_embedding)
    nets = decoder + vision.nets(spec, options, geometry)
    folder = out.absolute() / folder_name(recipe.name, asdict(options), asdict(settle(recipe, {})))
    build = _Build(recipe, spec, str(model_dir.absolute()), options, nets, trust, grid)
    tables = () if options.route == vendor.ROUTE else build.table_templates()
    host = tuple(build.beside(geometry.half))
    beside = tuple(f"{step.name}/{file}" for step in host for file in step.outputs)
    whole = build.combine(f"{folder.name}.bmodel", beside)
    making = (build.trace(), build.parity(), *host, *tables, *build.making(), whole)
    room = estimate.room(spec, grid)
    disk = estimate.disk(making, estimate.references(spec, options.seq_length, options.history), room)
    return Plan(folder, making, nets, disk, folder.parent / STORE, room, beside)


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
        """What bind makes ONNX of."""
        on_chip = () if self.options.host_embedding else ("embedding",)
        tower = (graphs.VIT,) if self.spec.vision else ()
        return (*on_chip, "head", *tower, *(f"layer_{i}" for i in range(self.spec.layers)))

    def weights(self) -> tuple[str, ...]:
        """The folders that the model's weights come from."""
        return (self.model, self.options.adapter) if self.options.adapter else (self.model,)

    def trace(self) -> Step:
        command = exporter.trace(self.model, asdict(self.options), self.trust)
        tables = (f"{net.name}.onnx" for net in self.nets if net.kind in TABLES)
        return Step(TRACE, (command,), (self.model,), ("bindings.json", *tables, "*"), EXPORTER, 2**30)

    def bind(self, group: str) -> Step:
        grids = self.grid > 0 and group.startswith("layer_")
        command = exporter.bind(self.model, f"../{TRACE}", group, grids, self.options.adapter)
        levels = (GRIDS,) if grids else ()
        outputs = (*(f"{n.name}.onnx" for n in self.nets if names.group_of(n) == group), WEIGHTS, *levels)
        size = estimate.group_bytes(self.spec, group)
        inputs = (*self.weights(), f"{TRACE}/")
        # What it writes is there until its nets are: there must be room for the first of these as well.
        ahead = estimate.deploy_disk(max(self.size(n) for n in self.nets if names.group_of(n) == group))
        memory = 2**28 + 3 * size
        return Step(names.bind_step(group), (command,), inputs, outputs, EXPORTER, memory, size, size, ahead, ("*",))

    def beside(self, half: str) -> Iterator[Step]:
        """Files for the host: the embedding, where it looks tokens up, and positions that it interpolates."""
        if self.options.host_embedding:
            command = exporter.table(self.model, half, self.options.adapter)
            size = estimate.group_bytes(self.spec, "embedding")
            made, outputs = size // 2, (graphs.EMBEDDING_FILE,)
            yield Step(TABLE, (command,), self.weights(), outputs, EXPORTER, 2**28 + 3 * size, made, made)
        if self.spec.vision and self.spec.vision.given:
            commands, outputs = (exporter.positions(self.model),), (towers.POSITIONS_FILE,)
            yield Step(POSITIONS, commands, (self.model,), outputs, EXPORTER, 2**28)

    def parity(self) -> Step:
        command = exporter.parity(self.model, asdict(self.options), self.recipe.prompt, self.trust)
        inputs = (*self.weights(), f"{TRACE}/")
        compared = [net.name for net in self.nets]
        compared += (graphs.EMBEDDING, graphs.EMBEDDING_CACHE) if self.options.host_embedding else ()
        shown = (f"reference/{PICTURES}",) if self.spec.vision else ()
        outputs = ("parity.json", "reference/tokens.json", *shown, *(f"reference/{name}.npz" for name in compared))
        made = estimate.references(self.spec, self.options.seq_length, self.options.history)
        disk = made + max(estimate.group_bytes(self.spec, group) for group in self.groups())
        return Step(PARITY, (command,), inputs, outputs, EXPORTER, estimate.parity_memory(self.spec), disk, made)

    def size(self, net: graphs.GraphSpec) -> int:
        """Bytes of its bmodel."""
        if names.is_weightless(net):
            return estimate.KERNEL
        return estimate.net_bytes(self.spec, names.group_of(net), *self.quantized(net))

    def joined(self, group: str) -> int:
        """Bytes of the nets of a group in one bmodel, without the kernels."""
        nets = [net for net in self.nets if names.group_of(net) == group]
        sizes, words = [self.size(net) for net in nets], set(map(self.quantized, nets))
        return (max(sizes) if len(words) == 1 else sum(sizes)) - estimate.KERNEL

    def quantized(self, net: graphs.GraphSpec) -> tuple[str, int]:
        """model_deploy's word for a net's weights, and input channels per scale."""
        word = quantization.word(self.recipe, self.spec, self.options, net.kind, self.grid)
        return word, quantization.group_size(self.spec, self.options, net.kind, word)

    def making(self) -> Iterator[Step]:
        """Group by group, so that what passes between steps can go soon: the largest, of which there are two, first."""
        vendors = self.options.route == vendor.ROUTE
        taken = [net for net in self.nets if vendors and net.kind not in vendor.NOT_TAKEN]
        if taken:
            yield self.convert(taken)
        for group in self.groups():
            nets = [net for net in self.nets if names.group_of(net) == group]
            own = [net for net in nets if net not in taken]
            if own:
                yield self.bind(group)
            yield from self.templates(group) if own else ()
            yield from (self.net(net) if net in own else self.taken(net) for net in nets)
            if names.is_joined(group):
                yield self.join(group, nets)

    def templates(self, group: str) -> Iterator[Step]:
        """One model_transform for each distinct graph of a layer (compile.rebind): with the first that has it."""
        kinds, index = self.spec.layer_kinds, int(group.rpartition("_")[2]) if group.startswith("layer_") else -1
        if index >= 0 and kinds.index(kinds[index]) == index:
            for net in dict.fromkeys(net.kind for net in self.nets if net.layer is not None):
                yield self._template(net, kinds[index])

    def table_templates(self) -> tuple[Step, ...]:
        return tuple(self._table_template(net) for net in self.nets if net.kind in TABLES)

    def _table_template(self, net: graphs.GraphSpec) -> Step:
        """The mlir of a net that holds the vocabulary's table, made with a small one in its place."""
        onnx, rebind = f"{TRACE}/{net.name}.onnx", ("python3", "-I", str(REBIND))
        commands = (
            (*rebind, "shrink", f"../{onnx}", str(self.spec.vocab)),
            deploy.transform(net.name, "small.onnx"),
            (*rebind, "seal", net.name, f"../{onnx}", "small.npz"),
        )
        outputs = (f"{net.name}.mlir", "template.json")
        return Step(names.template_step(net.kind), commands, (onnx,), outputs, COMPILER, 2**30)

    def _template(self, net: str, kind: int) -> Step:
        layer = self.spec.layer_kinds.index(kind)
        onnx, weights = (f"{names.bind_step(f'layer_{layer}')}/{file}" for file in (f"{net}_{layer}.onnx", WEIGHTS))
        commands = (
            deploy.transform(net, f"../{onnx}"),
            ("python3", "-I", str(REBIND), "seal", net, f"../{onnx}", f"../{weights}"),
        )
        outputs = (f"{net}.mlir", "template.json")
        memory = estimate.transform_memory(self.spec, f"layer_{layer}")
        disk = estimate.transform_disk(self.spec, f"layer_{layer}")
        return Step(names.template_step(net, kind), commands, (onnx, weights), outputs, COMPILER, memory, disk)

    def net(self, net: graphs.GraphSpec) -> Step:
        """ONNX to a bmodel of one net."""
        o, name, group = self.options, net.name, names.group_of(net)
        onnx, weights = f"{names.bind_step(group)}/{name}.onnx", f"{names.bind_step(group)}/{WEIGHTS}"
        inputs: tuple[str, ...] = (onnx, weights)
        first = deploy.transform(name, f"../{onnx}")
        memory, made = estimate.transform_memory(self.spec, group), self.size(net)
        transformed = 0 if names.is_weightless(net) else estimate.transform_disk(self.spec, group)
        disk = max(estimate.deploy_disk(made), transformed)
        if net.layer is not None or net.kind in TABLES:
            kinds = () if net.layer is None else (self.spec.layer_kinds[net.layer],)
            template = names.template_step(net.kind, *kinds)
            share = ("bind", f"../{template}", f"../{onnx}", f"../{weights}", name, "--")
            first = ("python3", "-I", str(REBIND), *share, *first)
            inputs = (f"{template}/", *inputs)
            memory, disk = estimate.deploy_memory(self.spec, group), estimate.deploy_disk(made)
        quantize, group_size = self.quantized(net)
        target = deploy.Target(
            o.chip, o.devices, group_size, self.spec.layer_norm, o.symmetric, o.dynamic, o.dynamic_vit
        )
        commands = [first, deploy.deploy(net, quantize, target), names.normalise(f"{name}.bmodel")]
        if self.grid and net.layer is not None:
            grids = f"{names.bind_step(group)}/{GRIDS}"
            commands.insert(1, ("python3", "-I", str(REGRID), name, f"../{grids}", str(self.grid), str(o.group_size)))
            inputs = (*inputs, grids)
        uncounted = (graphs.GREEDY_HEAD, graphs.SAMPLE_HEAD, *(deploy.PREFILL if o.dynamic else ()))
        profile = () if net.kind in uncounted else ("compiler_profile_*.txt",)
        outputs = (f"{name}.bmodel", f"{name}/final.mlir", *profile)
        return Step(name, tuple(commands), inputs, outputs, COMPILER, memory, disk, made, passing=names.passing(net))

    def convert(self, nets: Sequence[graphs.GraphSpec]) -> Step:
        """All of these at once, by the vendor's converter."""
        outputs = tuple(file for net in nets for file in vendor.outputs(net))
        groups = [names.group_of(net) for net in nets]
        sizes = {group: [self.size(net) for net in nets if names.group_of(net) == group] for group in groups}
        memory, disk = estimate.convert_memory(groups, self.spec), estimate.convert_disk(sizes, self.spec)
        commands, made = vendor.convert(self.model, self.spec, self.options), sum(map(self.size, nets))
        return Step(CONVERT, commands, (self.model,), outputs, COMPILER, memory, disk, made, passing=("*",))

    def taken(self, net: graphs.GraphSpec) -> Step:
        """A net of the vendor's, as `net` leaves one of ours."""
        outputs = tuple(file.removeprefix(f"{net.name}/") for file in vendor.outputs(net))
        copy = ("cp", "-r", f"../{CONVERT}/{net.name}/.", ".")
        commands = (copy, names.normalise(f"{net.name}.bmodel"))
        size = self.size(net)
        return Step(net.name, commands, (f"{CONVERT}/",), outputs, COMPILER, 0, size, size, passing=names.passing(net))

    def join(self, group: str, nets: Sequence[graphs.GraphSpec]) -> Step:
        """One bmodel of the nets of a group, which stores their weights once; what combines all needs no more of it."""
        files = tuple(f"{n.name}/{n.name}.bmodel" for n in deploy.combine_order(nets))
        made, inputs = f"{group}.bmodel", (*files, *map(str, COMBINER))
        commands = (deploy.combine(files, made, "--bare"),)
        size, outputs = self.joined(group), (made,)
        return Step(names.join_step(group), commands, inputs, outputs, EXPORTER, 2**28, size, size, passing=outputs)

    def combine(self, bmodel: str, beside: Sequence[str]) -> Step:
        """One bmodel of all, into which these go."""
        files = tuple(dict.fromkeys(map(names.bmodel_file, deploy.combine_order(self.nets))))
        # What lies beside is none of its inputs, but what stands before it looks at all that is published (cli.link).
        inputs, outputs = (*files, *beside, *map(str, COMBINER)), (bmodel, parts.INDEX)
        return Step(
            COMBINE, (deploy.combine(files, bmodel),), inputs, outputs, EXPORTER, 2**28, parts.CHUNK, takes=True
        )
