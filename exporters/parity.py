"""The two lower rungs of the parity ladder: Hugging Face to patched torch, patched torch to ONNX Runtime.

Climbed layer by layer, so one layer is in memory at a time. Both chains carry their own states from layer to layer
and their own KV cache from step to step. What ONNX Runtime saw and gave is kept for the upper rungs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from contract import graphs
from contract.graphs import GraphSpec
from contract.ladder import MAX_ABS_ONNX, MAX_ABS_PATCHED, ONNX, PATCHED, Score
from exporters import chain, modules, reference
from exporters.bind import assemble
from exporters.chain import Array, Call, LayerRun, States
from exporters.checkpoint import Checkpoint
from exporters.model import Decoder
from exporters.reference import Reference

_Lookup = Callable[[Array], Array]
KEPT_STEPS = 3  # decode steps kept for the chip: the first, a middle one, the last
KEPT_HEADS = 16  # positions kept for lm_head: it may give a token id only, which is right or wrong


def climb(decoder: Decoder, folder: Path, seq_length: int, prompt: str, positions: int, out: Path) -> list[Score]:
    """Compare every net; write `parity.json` and `reference/` into `out`.

    `folder` holds the folders of the bind steps (bind.embedding, bind.layer_<i>, bind.head) with their ONNX.
    """
    spec = decoder.spec
    truth = reference.run(decoder.model_dir, decoder.architecture, spec, prompt, positions, seq_length)
    ladder = _Ladder(decoder, folder, seq_length, truth, out / "reference")
    ladder.embedding()
    for index in range(spec.layers):
        ladder.layer(index)
    ladder.heads()
    ladder.keep_tokens()
    (out / "parity.json").write_text(json.dumps([s.as_json() for s in ladder.scores], indent=1) + "\n")
    return ladder.scores


class _Ladder:
    def __init__(self, decoder: Decoder, folder: Path, seq_length: int, truth: Reference, kept: Path) -> None:
        self.decoder, self.folder, self.truth, self.kept = decoder, folder, truth, kept
        self.geometry = decoder.spec.geometry(seq_length)
        self.checkpoint = Checkpoint(decoder.model_dir)
        self.valid = len(truth.prompt)
        passed = sum(self.valid > length for length in decoder.spec.switches(seq_length))
        self.row = passed * seq_length  # see patches.rotary.stacked
        self.scores: list[Score] = []
        kept.mkdir(parents=True, exist_ok=True)

    def embedding(self) -> None:
        table = torch.from_numpy(self.checkpoint.read(f"{self.decoder.architecture.embed}.weight"))
        module = modules.Embedding(table, self.decoder.spec.embedding_scale)
        prompt = chain.padded(self.truth.prompt, self.geometry.seq_length)
        steps = [np.array([[token]], np.int32) for token in self.truth.forced]
        self.torch_states, self.onnx_states = (
            States(run_full(prompt), [run_step(step) for step in steps])
            for run_full, run_step in (self._torch_embedding(module), self._onnx_embedding())
        )
        hf = self.truth.embedded.numpy()
        self._score(PATCHED, graphs.EMBEDDING, None, self._off(hf, self.torch_states), MAX_ABS_PATCHED)
        worst = max(_distance(a, b) for a, b in zip(_all(self.torch_states), _all(self.onnx_states), strict=True))
        self._score(ONNX, graphs.EMBEDDING, None, worst, MAX_ABS_ONNX)
        self._keep(graphs.EMBEDDING, [Call({"input_ids": prompt}, {graphs.EMBEDDING: self.onnx_states.prefill})])
        outputs = [{graphs.EMBEDDING_CACHE: state} for state in self.onnx_states.steps]
        calls = [Call({"input_ids": i}, o) for i, o in zip(steps, outputs, strict=True)]
        self._keep(graphs.EMBEDDING_CACHE, _some(calls), stepwise=True)

    def layer(self, index: int) -> None:
        nets = graphs.block(self.geometry, index), graphs.block_cache(self.geometry, index)
        layer = self.decoder.layer(index, self.checkpoint)
        module = self.decoder.block(layer, index, self.geometry.seq_length, self.checkpoint)
        ours = chain.run_layer(
            (chain.torch_runner(module, nets[0]), chain.torch_runner(module, nets[1])),
            self.torch_states,
            self.geometry,
            self.valid,
            self.row,
        )
        path = self.folder / f"bind.layer_{index}"
        theirs = chain.run_layer(
            (chain.onnx_runner(path / f"{nets[0].name}.onnx"), chain.onnx_runner(path / f"{nets[1].name}.onnx")),
            self.onnx_states,
            self.geometry,
            self.valid,
            self.row,
        )
        self.torch_states, self.onnx_states = ours.states(), theirs.states()
        self._score_layer(index, nets, ours, theirs)
        self._keep(nets[0].name, [theirs.prefill])
        self._keep(nets[1].name, _some(theirs.steps), stepwise=True)

    def _score_layer(self, index: int, nets: tuple[GraphSpec, GraphSpec], ours: LayerRun, theirs: LayerRun) -> None:
        hf = self.truth.layers[index].numpy()
        prompt, steps = hf[: self.valid], hf[self.valid :]
        state = ours.prefill.outputs[chain.STATES][0, : self.valid]
        detail = f"{self.valid} positions, states up to {np.abs(hf).max():.1f}"
        self._score(PATCHED, nets[0].name, index, _distance(prompt, state), MAX_ABS_PATCHED, detail)
        chained = np.concatenate([call.outputs[chain.STATES][0] for call in ours.steps]) if ours.steps else steps
        detail = f"{len(ours.steps)} chained steps"
        self._score(PATCHED, nets[1].name, index, _distance(steps, chained), MAX_ABS_PATCHED, detail)
        self._score(ONNX, nets[0].name, index, self._worst(ours.prefill, theirs.prefill), MAX_ABS_ONNX)
        worst = max((self._worst(a, b) for a, b in zip(ours.steps, theirs.steps, strict=True)), default=0.0)
        self._score(ONNX, nets[1].name, index, worst, MAX_ABS_ONNX, detail)

    def _worst(self, ours: Call, theirs: Call) -> float:
        """Largest difference over the outputs of one call, over real positions."""
        pairs = ((ours.outputs[name], theirs.outputs[name]) for name in ours.outputs)
        return max(_distance(a[:, : self.valid], b[:, : self.valid]) for a, b in pairs)

    def heads(self) -> None:
        """lm_head at every position; greedy_head and sample_head where the build has them."""
        nets = {path.stem: chain.onnx_runner(path) for path in sorted((self.folder / "bind.head").glob("*.onnx"))}
        norm = self.decoder.leaf(self.decoder.architecture.norm, self.checkpoint)
        weight, spec = assemble(self.checkpoint, self.decoder.head_weight(), ""), self.decoder.spec
        logits = modules.LmHead(norm, torch.from_numpy(weight), None, spec.logit_scale, spec.logit_softcap)
        net = graphs.lm_head(self.geometry, top1=False)
        torch_inputs, onnx_inputs = (
            [{"hidden_states": s} for s in self._heads_of(states)] for states in (self.torch_states, self.onnx_states)
        )
        ours = [chain.torch_runner(logits, net)(i)["m_logits"] for i in torch_inputs]
        theirs = [nets[graphs.LM_HEAD](i) for i in onnx_inputs]
        tokens = [int(o.argmax()) for o in ours]
        agreed = float(np.mean(np.array(tokens) == np.array(self.truth.expected)))
        detail = f"tokens at {len(tokens)} positions"
        self.scores.append(Score(PATCHED, "model", None, "agreement", agreed, 1.0, detail))
        if "token_id" in theirs[0]:
            same = float(np.mean([int(o["token_id"].item()) == t for o, t in zip(theirs, tokens, strict=True)]))
            self.scores.append(Score(ONNX, graphs.LM_HEAD, None, "agreement", same, 1.0, detail))
        else:
            worst = max(_distance(a, b["m_logits"]) for a, b in zip(ours, theirs, strict=True))
            self._score(ONNX, graphs.LM_HEAD, None, worst, MAX_ABS_ONNX, f"logits at {len(tokens)} positions")
            self._sampling(nets, theirs[0]["m_logits"])
        calls = [Call(i, o) for i, o in zip(onnx_inputs, theirs, strict=True)]
        self._keep(graphs.LM_HEAD, _some(calls, KEPT_HEADS), stepwise=True)

    def _sampling(self, nets: dict[str, chain.Run], logits: Array) -> None:
        """greedy_head and sample_head on real logits, with values that make every filter act."""
        inputs = {
            "m_logits": logits,
            "input_ids": np.resize(np.array(self.truth.prompt, np.int32), (1, self.geometry.seq_length)),
            "penalty": np.array([1.2], np.float32),
            "temperature": np.array([0.8], np.float32),
            "top_k": np.array([20], np.int32),
            "top_p": np.array([0.9], np.float32),
        }
        for module, net in (
            (modules.GreedyHead(), graphs.greedy_head(self.geometry)),
            (modules.SampleHead(), graphs.sample_head(self.geometry)),
        ):
            given = {t.name: inputs[t.name] for t in net.inputs}
            ours, theirs = chain.torch_runner(module, net)(given), nets[net.name](given)
            worst = max(_distance(ours[name], theirs[name]) for name in ours)
            self._score(ONNX, net.name, None, worst, MAX_ABS_ONNX)
            self._keep(net.name, [Call(given, theirs)])

    def keep_tokens(self) -> None:
        truth = self.truth
        names = ("prompt", "forced", "expected", "gap", "top")
        data = {name: getattr(truth, name) for name in names}
        (self.kept / "tokens.json").write_text(json.dumps(data) + "\n", encoding="utf-8")

    def _heads_of(self, states: States) -> list[Array]:
        """The last layer's state at each position that predicts a token, [1, H] each."""
        return [states.prefill[:, self.valid - 1], *(step[:, 0] for step in states.steps)]

    def _torch_embedding(self, module: torch.nn.Module) -> tuple[_Lookup, ...]:
        def run(ids: Array) -> Array:
            with torch.no_grad():
                return np.asarray(module(torch.from_numpy(ids)).numpy())

        return run, run

    def _onnx_embedding(self) -> tuple[_Lookup, ...]:
        def runner(name: str) -> _Lookup:
            run = chain.onnx_runner(self.folder / "bind.embedding" / f"{name}.onnx")
            return lambda ids: run({"input_ids": ids})[name]

        return runner(graphs.EMBEDDING), runner(graphs.EMBEDDING_CACHE)

    def _off(self, hf: Array, states: States) -> float:
        chained = np.concatenate([states.prefill[0, : self.valid], *(step[0] for step in states.steps)])
        return _distance(hf, chained)

    def _score(self, rung: str, net: str, layer: int | None, value: float, bar: float, detail: str = "") -> None:
        self.scores.append(Score(rung, net, layer, "max_abs", value, bar, detail))

    def _keep(self, net: str, calls: list[Call], stepwise: bool = False) -> None:
        """One npz a net: `in.<tensor>` and `out.<tensor>`, led by the step's number where there are several."""
        arrays: dict[str, Array] = {"valid": np.array(self.valid)}
        for number, call in enumerate(calls):
            lead = f"{number}." if stepwise else ""
            arrays |= {f"{lead}in.{name}": value for name, value in call.inputs.items()}
            arrays |= {f"{lead}out.{name}": value for name, value in call.outputs.items()}
        np.savez(self.kept / f"{net}.npz", allow_pickle=False, **arrays)


def _distance(truth: Array, found: Array) -> float:
    """Largest absolute difference; where a position holds values above 1, in units of its largest value.

    Float32 resolves 24 bits of the largest term of a sum, and the residual stream of trained models reaches 1e4,
    where one float32 step is 1e-3: below that no two orders of summation agree. NaN passes no bar.
    """
    truth, found = truth.astype(np.float64), found.astype(np.float64)
    scale = np.maximum(np.abs(truth).max(axis=-1, keepdims=True, initial=0.0), 1.0)
    return float((np.abs(truth - found) / scale).max(initial=0.0))


def _all(states: States) -> list[Array]:
    return [states.prefill, *states.steps]


def _some(calls: list[Call], count: int = KEPT_STEPS) -> list[Call]:
    """`count` of them, spread from the first to the last."""
    if len(calls) <= count:
        return calls
    return [calls[i] for i in np.linspace(0, len(calls) - 1, count).round().astype(int)]
