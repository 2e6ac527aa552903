"""Modules to ONNX skeletons: the only caller of torch.onnx.export.

A skeleton is a finished graph whose weights lie outside, in a file `weights.bin` beside it. Layers that differ in
weights only share one skeleton: `exporters.bind` writes each layer's weights and copies the file. Tracing runs on
the meta device, so it takes neither time nor memory, whatever the model's size. It does not read weights.
"""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from torch import nn

from contract import graphs
from contract.graphs import GraphSpec
from exporters import modules
from exporters.bind import WEIGHTS_FILE, Binding, Weight, layout
from exporters.model import Decoder

OPSET = 17  # the highest that tpu-mlir takes (18 moves ReduceMean's axes to an input, which it refuses)
IR_VERSION = 8  # what onnx 1.14, tpu-mlir's, reads
_TORCH = {graphs.FLOAT32: torch.float32, graphs.INT32: torch.int32}


@dataclass(frozen=True)
class Source:
    """Where a parameter of a traced module comes from: its row-wise parts in the checkpoint.

    "{layer}" stands for the prefix of the layer being bound.
    """

    parts: tuple[str, ...]


def trace_decoder(decoder: Decoder, seq_length: int, top1: str | None, out: Path) -> None:
    """Write the skeletons of every distinct net, and bindings.json, into `out`.

    `top1`: "argmax" or "topk" for a fused head, None for logits with greedy_head and sample_head.
    """
    geometry = decoder.spec.geometry(seq_length)
    groups: dict[str, list[Binding]] = {}
    with decoder.patched(), torch.no_grad():
        _trace_embedding(decoder, geometry, out, groups)
        for kind in sorted(set(decoder.spec.layer_kinds)):
            _trace_layer(decoder, geometry, kind, out, groups)
        _trace_head(decoder, geometry, top1, out, groups)
    data = {
        "layers": decoder.architecture.layers,
        "layer_kinds": decoder.spec.layer_kinds,
        "groups": {name: [b.as_json() for b in bindings] for name, bindings in groups.items()},
    }
    (out / "bindings.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _trace_embedding(decoder: Decoder, geometry: graphs.Geometry, out: Path, groups: dict[str, list[Binding]]) -> None:
    path = decoder.architecture.embed
    module = modules.Embedding(decoder.leaf(path, None))
    sources = {"table.weight": Source((f"{path}.weight",))}
    nets = (graphs.embedding(geometry), graphs.embedding_cache(geometry))
    groups["embedding"] = [_skeleton(module, net, net.name, sources, out) for net in nets]


def _trace_layer(
    decoder: Decoder, geometry: graphs.Geometry, kind: int, out: Path, groups: dict[str, list[Binding]]
) -> None:
    index = decoder.spec.layer_kinds.index(kind)
    module = modules.Block(decoder.layer(index, None), *decoder.rotary_tables(geometry.seq_length))
    fused = {fusion.into: fusion.parts for fusion in decoder.fusions}
    sources = {}
    for name in module.layer.state_dict():
        path, _, leaf = name.rpartition(".")
        sources[f"layer.{name}"] = Source(tuple(f"{{layer}}{part}.{leaf}" for part in fused.get(path, (path,))))
    groups[f"layer.{kind}"] = [
        _skeleton(module, graphs.block(geometry, index), f"block.{kind}", sources, out),
        _skeleton(module, graphs.block_cache(geometry, index), f"block_cache.{kind}", sources, out),
    ]


def _trace_head(
    decoder: Decoder, geometry: graphs.Geometry, top1: str | None, out: Path, groups: dict[str, list[Binding]]
) -> None:
    norm = decoder.architecture.norm
    weight = torch.empty(decoder.spec.vocab, decoder.spec.hidden, device="meta")
    module = modules.LmHead(decoder.leaf(norm, None), weight, top1)
    sources = {f"norm.{name}": Source((f"{norm}.{name}",)) for name in module.norm.state_dict()}
    sources["head.weight"] = Source((decoder.head_weight(),))
    groups["head"] = [_skeleton(module, graphs.lm_head(geometry, top1 is not None), graphs.LM_HEAD, sources, out)]
    if top1 is None:
        for head, net in (
            (modules.GreedyHead(), graphs.greedy_head(geometry)),
            (modules.SampleHead(), graphs.sample_head(geometry)),
        ):
            groups["head"].append(_skeleton(head, net, net.name, {}, out))


def _skeleton(module: nn.Module, net: GraphSpec, name: str, sources: dict[str, Source], out: Path) -> Binding:
    """Trace `module` as `net` and save it as `<name>.onnx` with its weights left outside."""
    path = out / f"{name}.onnx"
    constants = {n: b for n, b in module.named_buffers() if n not in sources}
    _export(module, net, [*sources, *constants], path)
    model = ir.load(path)
    _simplify(model)
    binding = _externalise(model, net, name, sources, constants)
    ir.save(model, path)
    return binding


class _Functional(nn.Module):
    """`module` with its parameters and buffers as inputs: traced on the meta device they become named graph inputs."""

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        super().__init__()
        object.__setattr__(self, "module", module)  # unregistered: its parameters must not become initializers
        self.names = names

    def forward(self, *tensors: torch.Tensor) -> Any:
        count = len(tensors) - len(self.names)
        for name, tensor in zip(self.names, tensors[count:], strict=True):
            path, _, leaf = name.rpartition(".")
            owner = self.module.get_submodule(path)
            owner._parameters.pop(leaf, None)
            owner._buffers.pop(leaf, None)
            object.__setattr__(owner, leaf, tensor)
        return self.module(*tensors[:count])


def _export(module: nn.Module, net: GraphSpec, names: list[str], path: Path) -> None:
    wide = net.as_onnx()
    inputs = [torch.empty(t.shape, dtype=_TORCH[t.dtype], device="meta") for t in wide.inputs]
    module = copy.deepcopy(module)  # _Functional takes it apart
    held = dict(module.named_parameters()) | dict(module.named_buffers())
    weights = [held[n].detach().to("meta") for n in names]
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated; its successor writes opset 18 and GatherND, both slower here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Functional(module, names).eval(),
            (*inputs, *weights),
            path,
            input_names=[*(t.name for t in net.inputs), *names],
            output_names=[t.name for t in net.outputs],
            opset_version=OPSET,
            dynamo=False,
        )


def _simplify(model: ir.Model) -> None:
    """Fold what is constant, drop casts and identities: then tpu-mlir needs no onnxsim, its slowest part."""
    optimizer.fold_constants(
        model,
        onnx_shape_inference=True,
        should_fold=lambda node: True if node.op_type == "ConstantOfShape" else None,
    )
    passes.IdentityEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)
    model.ir_version = IR_VERSION


def _externalise(
    model: ir.Model, net: GraphSpec, name: str, sources: dict[str, Source], constants: dict[str, torch.Tensor]
) -> Binding:
    """Turn the traced weight inputs into initializers: constants inline, weights in WEIGHTS_FILE."""
    graph = model.graph
    values = {value.name: value for value in graph.inputs}
    weights = []
    for key, source in sources.items():
        value = values[key]
        shape = tuple(int(d) for d in value.shape or ())  # type: ignore[call-overload]
        transposed = _absorb_transpose(value)
        weights.append(Weight(key, source.parts, shape[::-1] if transposed else shape, transposed))
    places = layout(weights)
    for weight in weights:
        place = places[weight.name]
        tensor = ir.ExternalTensor(
            WEIGHTS_FILE, place.offset, place.nbytes, ir.DataType.FLOAT, name=weight.name, shape=ir.Shape(weight.shape)
        )
        _make_initializer(graph, values[weight.name], tensor)
    for key, data in constants.items():
        _make_initializer(graph, values[key], ir.tensor(data.numpy(), name=key))
    graph.name = name
    return Binding(name, tuple(weights))


def _make_initializer(graph: ir.Graph, value: ir.Value, tensor: ir.TensorProtocol) -> None:
    value.shape = ir.Shape(tensor.shape)  # type: ignore[arg-type]
    value.const_value = tensor
    graph.inputs.remove(value)
    graph.register_initializer(value)


def _absorb_transpose(value: ir.Value) -> bool:
    """A linear layer's weight is only ever used transposed: store it so, and drop the node."""
    uses = list(value.uses())
    if not uses or any(use.node.op_type != "Transpose" for use in uses):
        return False
    for use in uses:
        output = use.node.outputs[0]
        ir.convenience.replace_all_uses_with(output, value)
        assert use.node.graph is not None
        use.node.graph.remove(use.node, safe=True)
    return True
