"""One model_transform per distinct graph: layers that differ in weights only share its mlir.

A top mlir is text that names its weights by their initializer names, and one npz that holds them; the exporter's
weights.npz holds a layer's under the same names. So another layer's mlir is the same text naming another file, made in
0.1 s and no space, where a transform takes 4 s (of which 3 s are imports) and a copy of the weights.

    shrink  for nets that hold the vocabulary's table, which would take ten seconds and three copies of it: the graph
          with a small table in its place, for model_transform. `seal` then puts the real size into the mlir's types.
    seal  after model_transform of one layer, checks that this holds: the compiler kept every weight, unchanged.
    bind  writes a layer's mlir from the template. Where the template did not hold, or the layer's graph is another,
          it runs the command that stands after `--` instead, and says so; or leaves that to who started it and ends
          with the exit code that REBIND_DEFERRED names.

It runs as a script in the compiler's environment (`python3 -I rebind.py`): numpy and onnx only, nothing of ours. They
are imported where they are needed: `bind` needs neither, runs once a net, and they would be most of its time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

TEMPLATE = "template.json"
SMALL, SMALL_WEIGHTS, SIZES = "small.onnx", "small.npz", "small.json"
STAND_IN = 1009  # rows of the small table: no width of a model, which is why it can be told apart in the mlir
_HEADER = re.compile(r'^module @(\S+) (.*?module\.weight_file = ")([^"]*)"', re.MULTILINE)
_TYPE = re.compile(r"tensor<[^>]*>")


def shrink(onnx_file: Path, rows: int) -> None:
    """Write into the current folder `small.onnx`, the graph with STAND_IN in place of each dimension `rows`,
    `small.npz`, its weights, which are random, and `small.json`, both sizes: the same twice where `rows` is not the
    table's alone."""
    import numpy as np
    import onnx

    model = onnx.load(str(onnx_file), load_external_data=False)
    graph, chance, arrays = model.graph, np.random.default_rng(0), {}
    outside = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    inside = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t not in outside]
    seen = [list(t.dims) for t in outside]
    inputs = [d.dim_value for value in graph.input for d in value.type.tensor_type.shape.dim]
    odd = rows in inputs or any(dims.count(rows) > 1 for dims in seen) or any((a == rows).any() for a in inside)
    taken = {d for dims in seen for d in dims} | set(inputs)
    small = rows if odd or STAND_IN in taken else STAND_IN
    for tensor in outside:
        shape = [small if d == rows else d for d in tensor.dims]
        arrays[tensor.name] = chance.standard_normal(shape, np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(arrays[tensor.name], tensor.name))
    for value in (*graph.output, *graph.value_info):
        for d in value.type.tensor_type.shape.dim:
            if d.dim_value == rows:
                d.dim_value = small
    onnx.save(model, SMALL)
    np.savez(SMALL_WEIGHTS, **arrays)  # type: ignore[arg-type]  # numpy 1.24 takes allow_pickle for an array
    Path(SIZES).write_text(json.dumps([small, rows]), encoding="utf-8")


def seal(name: str, onnx: Path, weights: Path) -> None:
    """Make `<name>.mlir` in the current folder, transformed from `onnx`, a template; drop its copy of the weights."""
    mlir = Path(f"{name}.mlir")
    text = mlir.read_text(encoding="utf-8")
    own = Path(_header(text).group(3))
    reason = _difference(own, weights)
    if Path(SIZES).is_file():
        small, full = json.loads(Path(SIZES).read_text(encoding="utf-8"))
        text, grown = grow(text, small, full)
        mlir.write_text(text, encoding="utf-8")
        reason = reason or grown
    if reason:
        print(f"{name}: every layer is transformed by itself: {reason}")
    data = {"name": name, "onnx": _sha256(onnx), "reason": reason}
    Path(TEMPLATE).write_text(json.dumps(data) + "\n", encoding="utf-8")
    own.unlink()


def grow(text: str, small: int, full: int) -> tuple[str, str]:
    """The mlir with `full` in place of `small` in its types, and why it must not be used; empty if it may."""
    if small == full:
        return text, ""
    if re.search(rf"(?<![\w.]){small}(?![\w.])", _TYPE.sub("", text)):
        return text, f"{small} stands for something else than a dimension as well"
    return _TYPE.sub(lambda m: re.sub(rf"(?<=[<x]){small}(?=x)", str(full), m[0]), text), ""


def _difference(own: Path, weights: Path) -> str:
    """Why the compiler's arrays cannot stand for the exporter's; empty if they can.

    An array too few may have been folded away for its values (a bias of zeros), one too many may have been computed.
    """
    import numpy as np

    with np.load(own) as ours, np.load(weights) as theirs:
        odd = sorted(set(ours.files) ^ set(theirs.files))
        if odd:
            return f"{odd[0]} is in {(own if odd[0] in ours.files else weights).name} only"
        changed = [k for k in ours.files if ours[k].dtype != np.float32 or not np.array_equal(ours[k], theirs[k])]
    return f"{changed[0]} was changed" if changed else ""


def bind(template: Path, onnx: Path, weights: Path, name: str) -> str:
    """Write `<name>.mlir` into the current folder, naming `weights`; or say why the template does not fit."""
    data = json.loads((template / TEMPLATE).read_text(encoding="utf-8"))
    if data["reason"]:
        return str(data["reason"])
    if data["onnx"] != _sha256(onnx):
        return f"{onnx.name} is another graph than the template's"
    text = (template / f"{data['name']}.mlir").read_text(encoding="utf-8")
    header = _header(text)
    text = f'{text[: header.start()]}module @{name} {header.group(2)}{weights}"{text[header.end() :]}'
    Path(f"{name}.mlir").write_text(text, encoding="utf-8")
    return ""


def _header(mlir: str) -> re.Match[str]:
    found = _HEADER.search(mlir)
    if not found:
        raise SystemExit("the mlir names no weight file: not a top mlir of tpu-mlir 1.30")
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(argv: list[str]) -> int:
    """shrink ONNX ROWS | seal NAME ONNX WEIGHTS | bind TEMPLATE_DIR ONNX WEIGHTS NAME -- COMMAND..."""
    if argv[:1] == ["shrink"] and len(argv) == 3:
        shrink(Path(argv[1]), int(argv[2]))
        return 0
    if argv[:1] == ["seal"] and len(argv) == 4:
        seal(argv[1], Path(argv[2]), Path(argv[3]))
        return 0
    if argv[:1] == ["bind"] and argv[5:6] == ["--"] and len(argv) > 6:
        reason = bind(Path(argv[1]), Path(argv[2]), Path(argv[3]), argv[4])
        if not reason:
            return 0
        print(f"{argv[4]}: transformed by itself: {reason}", flush=True)
        deferred = os.environ.get("REBIND_DEFERRED")
        return int(deferred) if deferred else subprocess.run(argv[6:], check=False).returncode
    print(main.__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
