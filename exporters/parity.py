"""The two lower rungs of the parity ladder: Hugging Face to patched torch, patched torch to ONNX Runtime.

Climbed layer by layer, so one layer is in memory at a time. Both chains carry their own states from layer to layer
and their own KV cache from step to step. What ONNX Runtime saw and gave is kept for the upper rungs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from contract import graphs
from contract.graphs import Geometry, GraphSpec
from contract.ladder import MAX_ABS_ONNX, MAX_ABS_PATCHED, ONNX, PATCHED, PICTURES, Score, resolution
from exporters import chain, modules, reference, sampling
from exporters.bind import assemble, bound
from exporters.chain import Array, Call, LayerRun, States, distance
from exporters.checkpoint import Checkpoint
from exporters.kept import KEPT_HEADS, Kept, some
from exporters.model import Decoder
from exporters.reference import Reference
from exporters.show import Shown
from exporters.vision import Size

_Lookup = Callable[[Array], Array]


def climb(
    decoder: Decoder,
    folder: Path,
    seq_length: int,
    prompt: str,
    positions: int,
    out: Path,
    input_length: int = 0,
    history: bool = False,
    size: Size | None = None,
    host_embedding: bool = False,
    batch: int = 1,
) -> list[Score]:
    """Compare every net; write `parity.json` and `reference/` into `out`.

    `folder` holds the folder of the trace step, `trace`. Its skeletons are bound here, one group at a time.
    `input_length`, `history`, `size`, `host_embedding`, `batch`: as they were traced. An embedding on the host has no
    ONNX, and takes no part in that rung.
    """
    spec = decoder.spec
    most = None if history else input_length or None
    source = (decoder.model_dir, decoder.architecture, spec)
    truth = reference.run(*source, prompt, positions, seq_length, most, decoder.adapter, size)
    geometry = replace(spec.geometry(seq_length, input_length=input_length, batch=batch), lora=decoder.lora)
    ladder = _Ladder(decoder, folder, geometry, _of_two(truth) if history else truth, out / "reference", history)
    if size and truth.pictures:
        ladder.vit(size)
    ladder.embedding(host_embedding)
    for index in range(spec.layers):
        ladder.layer(index)
    ladder.heads()
    ladder.kept.tokens(truth)
    (out / "parity.json").write_text(json.dumps([s.as_json() for s in ladder.scores], indent=1) + "\n")
    return ladder.scores


class _Ladder:
    """`lengths`: real positions of each chunk of the prompt."""

    def __init__(
        self, decoder: Decoder, folder: Path, geometry: Geometry, truth: Reference, kept: Path, history: bool
    ) -> None:
        self.decoder, self.skeletons, self.truth, self.kept = decoder, folder / "trace", truth, Kept(kept)
        self.geometry, self.history = geometry, history
        self.checkpoint = Checkpoint(decoder.model_dir, decoder.adapter)
        self.valid = len(truth.prompt)
        self.lengths = chain.chunks(self.valid, geometry, history)
        passed = sum(self.valid > length for length in decoder.spec.switches(geometry.seq_length))
        row = passed * geometry.seq_length  # see patches.rotary.stacked
        self.positions = np.tile(np.arange(self.valid + len(truth.forced), dtype=np.int32) + row, (geometry.axes, 1))
        self.scores: list[Score] = []
        self.shown: Shown | None = None

    def vit(self, size: Size) -> None:
        """The tower, whose features then take their places in the prompt."""
        with bound(self.checkpoint, self.skeletons, graphs.VIT) as place:
            self.shown = shown = Shown(self.decoder, size, self.truth, self.checkpoint, place)
            self.positions = shown.positions()
            for rung, value, bar in shown.distances():
                self._score(rung, graphs.VIT, None, value, bar, f"{len(self.truth.features[0])} feature rows")
            for name, call, valid in shown.kept(self.geometry):
                self.kept.calls(name, [call], valid)
        shown.pictures.save(self.kept.folder / PICTURES)

    def embedding(self, on_host: bool) -> None:
        table = torch.from_numpy(self.checkpoint.read(f"{self.decoder.architecture.embed}.weight"))
        module = modules.Embedding(table, self.decoder.spec.embedding_scale)
        ends = np.cumsum(self.lengths)[:-1]
        parts = [list(ids) for ids in np.split(np.array(self.truth.prompt), ends)]
        prompt = [chain.padded(ids, self.geometry.prefill_length) for ids in parts]
        steps = self._seated([np.array([[token]], np.int32) for token in self.truth.forced])
        in_torch = self._torch_embedding(module)
        place = nullcontext(Path()) if on_host else bound(self.checkpoint, self.skeletons, "embedding")
        states = []
        with place as folder:
            for run_full, run_step in (in_torch, in_torch if on_host else self._onnx_embedding(folder)):
                stepped = [run_step(step) for step in steps]
                states.append(States([run_full(ids) for ids in prompt], self._unseated(stepped)))
        self.torch_states, self.onnx_states = states
        first = Call({"input_ids": prompt[0]}, {graphs.EMBEDDING: self.onnx_states.chunks[0].copy()})
        self._splice(0)
        hf = self.truth.embedded.numpy()
        self._score(PATCHED, graphs.EMBEDDING, None, self._off(hf, self.torch_states), MAX_ABS_PATCHED)
        if not on_host:
            worst = max(distance(a, b) for a, b in zip(_all(self.torch_states), _all(self.onnx_states), strict=True))
            self._score(ONNX, graphs.EMBEDDING, None, worst, MAX_ABS_ONNX)
        self.kept.calls(graphs.EMBEDDING, [first], self.lengths[0])
        outputs = [{graphs.EMBEDDING_CACHE: state} for state in stepped]
        calls = [Call({"input_ids": i}, o) for i, o in zip(steps, outputs, strict=True)]
        self.kept.calls(graphs.EMBEDDING_CACHE, some(calls), stepwise=True)

    def _splice(self, number: int) -> None:
        """Features into the prompt's states: the tower's own (0), or deepstack features, which are added."""
        if self.shown and number < len(self.shown.torch_rows):
            self.shown.splice(number, self.torch_states.chunks, self.shown.torch_rows, self.lengths)
            self.shown.splice(number, self.onnx_states.chunks, self.shown.onnx_rows, self.lengths)

    def layer(self, index: int) -> None:
        nets = graphs.layer_nets(self.geometry, index, self.history)
        layer = self.decoder.layer(index, self.checkpoint)
        module = self.decoder.block(layer, index, self.geometry.seq_length, self.checkpoint)
        ours = chain.run_layer(
            [chain.torch_runner(module, net) for net in nets],
            self.torch_states,
            self.geometry,
            self.lengths,
            self.positions,
            self.shown.unmask if self.shown else None,
        )
        with bound(self.checkpoint, self.skeletons, f"layer_{index}") as place:
            theirs = chain.run_layer(
                [chain.onnx_runner(place / f"{net.name}.onnx") for net in nets],
                self.onnx_states,
                self.geometry,
                self.lengths,
                self.positions,
                self.shown.unmask if self.shown else None,
            )
        self.torch_states, self.onnx_states = ours.states(), theirs.states()
        self._score_layer(index, nets, ours, theirs)
        self.kept.calls(nets[0].name, theirs.chunks[:1], self.lengths[0])
        self.kept.calls(nets[1].name, some(theirs.steps), stepwise=True)
        if self.history:
            self.kept.calls(nets[2].name, theirs.chunks[-1:], self.lengths[-1])
        self._splice(index + 1)

    def _score_layer(self, index: int, nets: Sequence[GraphSpec], ours: LayerRun, theirs: LayerRun) -> None:
        hf, first = self.truth.layers[index].numpy(), self.lengths[0]
        steps = hf[self.valid :]
        largest = f"states up to {np.abs(hf).max():.1f}"
        states = ours.states()
        chunked = self._chunked(states)
        off = distance(hf[:first], chunked[:first])
        self._score(PATCHED, nets[0].name, index, off, MAX_ABS_PATCHED, f"{first} positions, {largest}")
        chained = np.concatenate([step[0] for step in states.steps]) if states.steps else steps
        detail = f"{len(ours.steps)} chained steps"
        self._score(PATCHED, nets[1].name, index, distance(steps, chained), MAX_ABS_PATCHED, detail)
        worst = self._worst(ours.chunks[:1], theirs.chunks[:1], [first])
        self._score(ONNX, nets[0].name, index, worst, MAX_ABS_ONNX)
        worst = self._worst(ours.steps, theirs.steps, [1] * len(ours.steps))
        self._score(ONNX, nets[1].name, index, worst, MAX_ABS_ONNX, detail)
        if self.history:
            off = distance(hf[first : self.valid], chunked[first:])
            detail = f"{self.valid - first} positions, chunks of {', '.join(map(str, self.lengths[1:]))}"
            self._score(PATCHED, nets[2].name, index, off, MAX_ABS_PATCHED, detail)
            worst = self._worst(ours.chunks[1:], theirs.chunks[1:], self.lengths[1:])
            self._score(ONNX, nets[2].name, index, worst, MAX_ABS_ONNX, detail)

    def _chunked(self, states: States) -> Array:
        """The prompt's real positions, [valid, H]."""
        return np.concatenate([c[0, :length] for c, length in zip(states.chunks, self.lengths, strict=True)])

    def _worst(self, ours: list[Call], theirs: list[Call], lengths: Sequence[int]) -> float:
        """Largest difference over the outputs of some calls, over the real positions of each."""
        return max(
            (
                distance(a.outputs[name][:, :length], b.outputs[name][:, :length])
                for a, b, length in zip(ours, theirs, lengths, strict=True)
                for name in a.outputs
            ),
            default=0.0,
        )

    def heads(self) -> None:
        """lm_head at every position; greedy_head and sample_head where the build has them."""
        with bound(self.checkpoint, self.skeletons, "head") as place:
            self._heads({path.stem: chain.onnx_runner(path) for path in sorted(place.glob("*.onnx"))})

    def _heads(self, nets: dict[str, chain.Run]) -> None:
        norm = self.decoder.leaf(self.decoder.architecture.norm, self.checkpoint)
        weight, spec = assemble(self.checkpoint, self.decoder.head_weight(), ""), self.decoder.spec
        logits = modules.LmHead(norm, torch.from_numpy(weight), None, spec.logit_scale, spec.logit_softcap)
        net = graphs.lm_head(self.geometry, top1=False)
        torch_inputs, onnx_inputs = (
            [{"hidden_states": s} for s in self._seated(self._heads_of(states))]
            for states in (self.torch_states, self.onnx_states)
        )
        ours = [chain.torch_runner(logits, net)(i)["m_logits"] for i in torch_inputs]
        theirs = [nets[graphs.LM_HEAD](i) for i in onnx_inputs]
        tokens = [int(o.argmax()) for o in self._unseated(ours)]
        agreed = float(np.mean(np.array(tokens) == np.array(self.truth.expected)))
        detail = f"tokens at {len(tokens)} positions"
        self.scores.append(Score(PATCHED, "model", None, "agreement", agreed, 1.0, detail))
        if "token_id" in theirs[0]:
            found = self._unseated([o["token_id"] for o in theirs])
            same = float(np.mean([int(o.item()) == t for o, t in zip(found, tokens, strict=True)]))
            self.scores.append(Score(ONNX, graphs.LM_HEAD, None, "agreement", same, 1.0, detail))
        else:
            worst = max(distance(a, b["m_logits"]) for a, b in zip(ours, theirs, strict=True))
            self._score(ONNX, graphs.LM_HEAD, None, worst, MAX_ABS_ONNX, f"logits at {len(tokens)} positions")
            scores, sampled = sampling.compare(nets, theirs[0]["m_logits"][:1], self.truth.prompt, self.geometry)
            self.scores += scores
            for name, call in sampled.items():
                self.kept.calls(name, [call])
        # A token id is right or wrong, and at a near-tie that says nothing of the net.
        gaps = [gap > resolution(top, "bf16") for gap, top in zip(self.truth.gap, self.truth.top, strict=True)]
        clear = [all(gaps[i] for i in chain.seated(step, self.geometry.batch)) for step in range(len(gaps))]
        calls = [Call(i, o) for i, o, told in zip(onnx_inputs, theirs, clear, strict=True) if told or not any(clear)]
        self.kept.calls(graphs.LM_HEAD, some(calls, KEPT_HEADS), stepwise=True)

    def _seated(self, values: list[Array]) -> list[Array]:
        """Of each decode step: the same [1, ...] in a seat of its own (chain.seated)."""
        steps = [chain.seated(i, self.geometry.batch) for i in range(len(values))]
        return [np.concatenate([values[i] for i in step]) for step in steps]

    def _unseated(self, values: list[Array]) -> list[Array]:
        return [value[i % len(value)][None] for i, value in enumerate(values)]

    def _heads_of(self, states: States) -> list[Array]:
        """The last layer's state at each position that predicts a token, [1, H] each."""
        return [states.chunks[-1][:, self.lengths[-1] - 1], *(step[:, 0] for step in states.steps)]

    def _torch_embedding(self, module: torch.nn.Module) -> tuple[_Lookup, ...]:
        def run(ids: Array) -> Array:
            with torch.no_grad():
                return np.asarray(module(torch.from_numpy(ids)).numpy())

        return run, run

    def _onnx_embedding(self, place: Path) -> tuple[_Lookup, ...]:
        def runner(name: str) -> _Lookup:
            run = chain.onnx_runner(place / f"{name}.onnx")
            return lambda ids: run({"input_ids": ids})[name]

        return runner(graphs.EMBEDDING), runner(graphs.EMBEDDING_CACHE)

    def _off(self, hf: Array, states: States) -> float:
        chained = np.concatenate([self._chunked(states), *(step[0] for step in states.steps)])
        return distance(hf, chained)

    def _score(self, rung: str, net: str, layer: int | None, value: float, bar: float, detail: str = "") -> None:
        self.scores.append(Score(rung, net, layer, "max_abs", value, bar, detail))


def _of_two(truth: Reference) -> Reference:
    """A prompt of one token takes the next one in, so that it can be cut into chunks."""
    if len(truth.prompt) > 1 or not truth.forced:
        return truth
    later = {name: getattr(truth, name)[1:] for name in ("forced", "expected", "gap", "top")}
    return replace(truth, prompt=truth.prompt + truth.forced[:1], **later)


def _all(states: States) -> list[Array]:
    return [*states.chunks, *states.steps]
