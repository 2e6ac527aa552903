"""What a build will take, from sizes alone: bytes on disk, bytes of memory of each kind of step, bytes of the bmodel.

They rest on measurements of tpu-mlir 1.30.2. Disk and memory err on the high side (0.5B and 7B sizes); B is the
float32 weight bytes of the step's group:
    model_transform   0.95 GB (its imports) + 1.9 B to 3.8 B
    model_deploy      0.15 GB + 1.7 B (a block) to 3.5 B (a vocabulary projection)
The bmodel's own size is a likely value, within 15 % of what was built (tests/compile/test_estimate.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from compile import parts
from compile.ledger import Ledger
from contract import graphs
from contract.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compile.steps import Step
    from exporters.spec import DecoderSpec
    from recipes.recipe import Recipe

GB = 10**9
KERNEL = 6 * 10**6  # the chip's kernel module, a copy in each net's bmodel
_KEPT_STEPS = 3  # decode steps that the parity step keeps of each layer
_SCALE = 3  # bytes a group of quantised weights takes beside them: a scale in 16 bits, a zero point in 8
_EIGHT_BIT_GROUP = 128  # at most; compile.plan settles it
_COMMANDS = 30_000  # of one layer's net


def group_bytes(spec: DecoderSpec, group: str) -> int:
    """Float32 bytes of a group's weights: embedding, head, vit, or layer_<i>."""
    if group == graphs.VIT and spec.vision:
        return 4 * spec.vision.parameters
    if not group.startswith("layer_"):
        return 4 * spec.vocab * spec.hidden
    return 4 * spec.layer_parameters[int(group.removeprefix("layer_"))]


def bmodel_bytes(
    recipe: Recipe, spec: DecoderSpec, mode: str, seq_length: int, group_size: int, head: str | None = None
) -> int:
    """Likely size of a bmodel for one device: weights, once each, with their scales, rotary tables, commands. `head`:
    as chosen for lm_head."""
    table = spec.vocab * spec.hidden
    prefill, decode = ((recipe.quantize(kind, mode), group_size) for kind in (graphs.BLOCK, graphs.BLOCK_CACHE))
    quantised = stored(table, recipe.quantize(graphs.LM_HEAD, mode, head), group_size)
    tower = 2 * spec.vision.parameters if spec.vision else 0
    blocks = layer_bytes(spec, prefill, decode, seq_length)
    return KERNEL + 2 * table + quantised + blocks + tower + 2 * spec.layers * _COMMANDS


def layer_bytes(
    spec: DecoderSpec, prefill: tuple[str, int], decode: tuple[str, int], seq_length: int, devices: int = 1
) -> int:
    """Of the weights of all layers, on one of `devices`. `prefill`, `decode`: model_deploy's word for the nets, and
    input channels per scale."""
    rotary = 2 * 2 * seq_length * min(spec.head_dim, spec.v_head_dim)  # cos and sin, in 16 bits; in each layer anew
    weights = sum(spec.layer_parameters) // devices
    nets = [stored(weights, *word) + spec.layers * rotary for word in (prefill, decode)]
    # A quantised matmul is cut in two where its outputs are no multiple of 64, and prefill lays the parts down in
    # another order than decode: the two nets of a layer then share nothing, as when they are quantised differently.
    apart = prefill[0] != decode[0] or (prefill[0].startswith("W") and spec.hidden % 64 > 0)
    return sum(nets) if apart else nets[0]


def stored(weights: int, quantize: str, group_size: int) -> int:
    """Bytes of so many weights in a bmodel, quantised as model_deploy's word says."""
    if quantize.startswith("W4"):
        return weights // 2 + _SCALE * weights // group_size
    if quantize.startswith("W8"):
        return weights + _SCALE * weights // _EIGHT_BIT_GROUP
    return 2 * weights


def net_bytes(spec: DecoderSpec, group: str, quantize: str, group_size: int) -> int:
    """Of a net's bmodel."""
    return stored(group_bytes(spec, group) // 4, quantize, group_size) + KERNEL


def transform_disk(spec: DecoderSpec, group: str) -> int:
    """Bytes that model_transform holds at once: weights as it read them, and those in the ONNX that it simplified or
    those that it folded (compile.spent)."""
    return 2 * group_bytes(spec, group)


def deploy_disk(made: int) -> int:
    """Bytes that model_deploy holds at once for a bmodel of `made`: the weights quantised and where they will lie, or
    these and the bmodel."""
    return 2 * made - KERNEL


def room(spec: DecoderSpec, grid: int) -> int:
    """What a build may take on disk while steps could wait for others to end: four layers, and 1.3 times the checkpoint
    in 16 bits; or where it is more, what the two nets of the embedding table take beside one layer: its float32 form,
    the first net's bmodel, and what the second one's model_deploy holds. A gigabyte at least. `grid`: bits of the
    levels that the checkpoint's layers keep; 0: none."""
    layers, layer = sum(spec.layer_parameters), 4 * max(spec.layer_parameters)
    checkpoint = 2 * (spec.parameters - layers) + layers * (grid or 16) // 8
    table = group_bytes(spec, "embedding") + 2 * KERNEL + (1 + 2) * 2 * spec.vocab * spec.hidden
    return max(13 * checkpoint // 10 + 4 * layer, table + layer, 2**30)


def references(spec: DecoderSpec, seq_length: int, history: bool) -> int:
    """Bytes of what the parity step keeps for the upper rungs of the ladder."""
    kv = spec.kv_heads * (spec.head_dim + spec.v_head_dim)
    prefill = seq_length * (2 * spec.hidden + seq_length + kv)
    decode = _KEPT_STEPS * seq_length * kv
    # A chunk over a history is kept with all of the cache, and is never longer than the sequence.
    chunk = prefill + seq_length * (seq_length + kv) if history else 0
    return 4 * spec.layers * (prefill + decode + chunk)


def disk(steps: Sequence[Step], references: int, room: int) -> int:
    """Bytes that a build folder may grow to: all that steps write, at most. What the last of `steps` combines stays
    there until then, when it goes into the whole piece by piece. What else passes between steps is bounded by `room`,
    but for what one step and those that read it take beside all that stays."""
    ledger = Ledger(steps)
    staying = references + sum(step.made for step in steps if step.name in steps[-1].needs)
    most = staying + max(_in_a_row(step, ledger) for step in steps)
    return max(staying + parts.CHUNK, min(max(room, most), sum(step.room for step in steps)))


def _in_a_row(step: Step, ledger: Ledger) -> int:
    """Bytes at the peak of a step, and of those that read what passes of it, one after the other."""
    most, lying = step.disk, step.made
    for reader in (ledger.steps[name] for name in ledger.readers[step.name] if step.passing):
        most = max(most, lying + reader.disk)
        lying += reader.made
    return most


def transform_memory(spec: DecoderSpec, group: str) -> int:
    return GB + 4 * group_bytes(spec, group)


def deploy_memory(spec: DecoderSpec, group: str) -> int:
    return GB // 4 + 7 * group_bytes(spec, group) // 2


def parity_memory(spec: DecoderSpec) -> int:
    """Hugging Face's model in float32 (the step offloads what does not fit), and its largest layer thrice beside it."""
    largest, table = 4 * max(spec.layer_parameters), group_bytes(spec, "embedding")
    tower = group_bytes(spec, graphs.VIT) if spec.vision else 0
    return GB + 4 * sum(spec.layer_parameters) + tower + 2 * table + 3 * largest


def convert_disk(groups: Mapping[str, Sequence[int]], spec: DecoderSpec) -> int:
    """Bytes that llm_convert leaves until its end, of `groups` with the sizes of their nets' bmodels: float32 weights
    once for each group and once for each net, each net's as they will lie and in its bmodel, and the whole."""
    floats = sum(group_bytes(spec, group) * (1 + len(made)) for group, made in groups.items())
    return floats + sum(2 * sum(made) + max(made) for made in groups.values())


def convert_memory(nets: Sequence[str], spec: DecoderSpec) -> int:
    """Its own, and that of the nets that it compiles at once, given by their groups: four where there are no more
    cores."""
    return 3 * GB // 2 + sum(sorted(deploy_memory(spec, group) for group in nets)[-4:])


def check_disk(folder: Path, needed: int) -> None:
    """UserError where `folder`, or the nearest folder above it that exists, has less than `needed` bytes free."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        what = f"the build may need {needed / GB:.1f} GB more and {free / GB:.1f} GB are free"
        raise UserError(what, str(existing), "free some space, or choose another place with OUT=")
