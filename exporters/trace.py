"""Modules to ONNX skeletons: the only caller of torch.onnx.export.

A skeleton is a finished graph whose weights lie outside, in a weight file beside it. Layers that differ in weights
only share one skeleton: `exporters.bind` writes each layer's weights and copies the graph. Tracing runs on the meta
device, so it takes neither time nor memory, whatever the model's size. It does not read weights.
"""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from torch import nn

from contract import graphs, towers
from contract.graphs import GraphSpec
from exporters import modules
from exporters import weights as weight_file
from exporters.bind import BINDINGS, CONSTANTS, Binding, Weight
from exporters.model import Decoder
from exporters.vision import Size

OPSET = 17  # the highest that tpu-mlir takes (18 moves ReduceMean's axes to an input, which it refuses)
IR_VERSION = 8  # what onnx 1.14, tpu-mlir's, reads
_TORCH = {graphs.FLOAT32: torch.float32, graphs.INT32: torch.int32}


def trace_decoder(
    decoder: Decoder,
    seq_length: int,
    top1: str | None,
    out: Path,
    input_length: int = 0,
    history: bool = False,
    size: Size | None = None,
    host_embedding: bool = False,
    batch: int = 1,
) -> None:
    """Write the skeletons of every distinct net, with their bindings and constants, into `out`.

    `top1`: "argmax" or "topk" for a fused head, None for logits with greedy_head and sample_head. `input_length`:
    positions of a prefill net, 0 for all. `history`: a block_kv for each layer. `size`: height and width of the largest
    picture, in pixels, where there is a vision tower. `host_embedding`: no nets for the embedding (exporters.table).
    `batch`: conversations in a decode step.
    """
    geometry = decoder.spec.geometry(seq_length, input_length=input_length, batch=batch)
    tracer = _Tracer(decoder, replace(geometry, lora=decoder.lora), out, history)
    with torch.no_grad():
        if not host_embedding:
            tracer.embedding()
        for kind in sorted(set(decoder.spec.layer_kinds)):
            tracer.layer(kind)
        tracer.head(top1)
        if size:
            tracer.vit(size)
    tracer.save()


class _Tracer:
    """`groups`: for each group of nets that share weights, the bindings of its skeletons."""

    def __init__(self, decoder: Decoder, geometry: graphs.Geometry, out: Path, history: bool) -> None:
        self.decoder, self.geometry, self.out, self.history = decoder, geometry, out, history
        self.groups: dict[str, list[Binding]] = {}
        self.constants: dict[str, Any] = {}

    def embedding(self) -> None:
        spec, name = self.decoder.spec, f"{self.decoder.architecture.embed}.weight"
        module = modules.Embedding(torch.empty(spec.vocab, spec.hidden, device="meta"), spec.embedding_scale)
        weights = {"table.weight": Weight("table.weight", (name,), (spec.vocab, spec.hidden))}
        for net in (graphs.embedding(self.geometry), graphs.embedding_cache(self.geometry)):
            self._skeleton("embedding", module, net, net.name, weights)

    def layer(self, kind: int) -> None:
        index = self.decoder.spec.layer_kinds.index(kind)
        layer = self.decoder.layer(index, None)
        module = self.decoder.block(layer, index, self.geometry.seq_length, None)
        weights = {f"layer.{n}": replace(w, name=f"layer.{n}") for n, w in self.decoder.weights(layer).items()}
        if module.positions is not None:
            weights["positions"] = self.decoder.positions_weight(self.geometry.seq_length)
        group = f"layer.{kind}"
        for net in graphs.layer_nets(self.geometry, index, self.history):
            self._skeleton(group, module, net, f"{net.kind}.{kind}", weights)

    def head(self, top1: str | None) -> None:
        norm, weight, spec = self.decoder.architecture.norm, self.decoder.head_weight(), self.decoder.spec
        table = torch.empty(weight.shape, device="meta")
        module = modules.LmHead(self.decoder.leaf(norm, None), table, top1, spec.logit_scale, spec.logit_softcap)
        weights = {
            f"norm.{n}": Weight(f"norm.{n}", (f"{norm}.{n}",), tuple(v.shape))
            for n, v in module.norm.state_dict().items()
        }
        weights[weight.name] = weight
        self._skeleton("head", module, graphs.lm_head(self.geometry, top1 is not None), graphs.LM_HEAD, weights)
        if top1 is None:
            self._skeleton("head", modules.GreedyHead(), graphs.greedy_head(self.geometry), graphs.GREEDY_HEAD, {})
            self._skeleton("head", modules.SampleHead(), graphs.sample_head(self.geometry), graphs.SAMPLE_HEAD, {})

    def vit(self, size: Size) -> None:
        """The tower, and the net that adds its deepstack features where it has some."""
        spec = self.decoder.spec.vision
        assert spec
        module = self.decoder.tower(size, None)
        net = towers.vit(spec.geometry(size))
        self._skeleton(graphs.VIT, module, net, net.name, self.decoder.tower_weights(module))
        if spec.deepstack:
            self._skeleton(graphs.VIT, modules.Add(), graphs.add(self.geometry), graphs.ADD, {})

    def save(self) -> None:
        vision = self.decoder.architecture.vision
        data = {
            "tower": vision.prefix if vision else "",
            "layers": self.decoder.architecture.layers,
            "layer_kinds": self.decoder.spec.layer_kinds,
            "groups": {name: [b.as_json() for b in bindings] for name, bindings in self.groups.items()},
        }
        (self.out / BINDINGS).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        np.savez(self.out / CONSTANTS, allow_pickle=False, **self.constants)

    def _skeleton(self, group: str, module: nn.Module, net: GraphSpec, name: str, weights: dict[str, Weight]) -> None:
        """Trace `module` as `net` and save it as `<name>.onnx` with its weights left outside."""
        path = self.out / f"{name}.onnx"
        buffers = {n: b for n, b in module.named_buffers() if n not in weights}
        self.constants |= {f"{group}/{n}": b.float().numpy() for n, b in buffers.items()}
        everything = {**weights, **{n: Weight(n, (), tuple(b.shape)) for n, b in buffers.items()}}
        _export(module, net, list(everything), path)
        model = ir.load(path)
        _simplify(model)
        binding = Binding(name, _externalise(model, everything))
        model.graph.name = name
        ir.save(model, path)
        others = self.groups.setdefault(group, [])
        if others and binding.weights and others[0].weights != binding.weights:
            raise RuntimeError(f"{name} and {others[0].skeleton} use the weights they share in different ways")
        others.append(binding)


class _Functional(nn.Module):
    """`module` with its parameters and buffers as inputs: traced on the meta device they become named graph inputs."""

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.wrapped = [module]  # in a list, unregistered: its parameters must not become initializers
        self.names = names

    def forward(self, *tensors: torch.Tensor) -> Any:
        count = len(tensors) - len(self.names)
        for name, tensor in zip(self.names, tensors[count:], strict=True):
            path, _, leaf = name.rpartition(".")
            owner = self.wrapped[0].get_submodule(path)
            owner._parameters.pop(leaf, None)
            owner._buffers.pop(leaf, None)
            object.__setattr__(owner, leaf, tensor)
        return self.wrapped[0](*tensors[:count])


def _export(module: nn.Module, net: GraphSpec, names: list[str], path: Path) -> None:
    wide = net.as_onnx()
    # A head without weights is small, and its constants must be real.
    device = "meta" if names else "cpu"
    inputs = [torch.zeros(t.shape, dtype=_TORCH[t.dtype], device=device) for t in wide.inputs]
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


def _externalise(model: ir.Model, known: dict[str, Weight]) -> tuple[Weight, ...]:
    """Turn the traced weight inputs into initializers whose bytes lie in the group's weight file."""
    values = {value.name: value for value in model.graph.inputs}
    weights = []
    for name, weight in known.items():
        transposed = _absorb_transpose(values[name])
        shape = weight.shape[::-1] if transposed else weight.shape
        weights.append(replace(weight, shape=shape, transposed=transposed))
    places = weight_file.offsets({w.name: w.shape for w in weights})
    for weight in weights:
        value = values[weight.name]
        value.shape = ir.Shape(weight.shape)
        size = weight_file.nbytes(weight.shape)
        value.const_value = ir.ExternalTensor(
            weight_file.NAME, places[weight.name], size, ir.DataType.FLOAT, name=weight.name, shape=value.shape
        )
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    return tuple(weights)


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
