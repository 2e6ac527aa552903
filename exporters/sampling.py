"""greedy_head and sample_head on real logits: Hugging Face's processors to patched torch, that to ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from contract import graphs
from contract.graphs import Geometry
from contract.ladder import MAX_ABS_ONNX, MAX_ABS_PATCHED, ONNX, PATCHED, Score
from exporters import chain, modules
from exporters.chain import Array, Call, distance

# Values that make every filter act: temperature, top-k, top-p, penalty.
SETTINGS = (0.8, 20, 0.9, 1.2)


def compare(
    nets: Mapping[str, chain.Run], logits: Array, seen: Sequence[int], geometry: Geometry
) -> tuple[list[Score], dict[str, Call]]:
    """The scores of both nets on `logits` [1, V], and what ONNX Runtime was given and gave. `seen`: tokens so far."""
    given = inputs(logits, seen, SETTINGS, geometry.seq_length)
    wanted = {
        graphs.GREEDY_HEAD: np.asarray(logits[0].max()),
        graphs.SAMPLE_HEAD: distribution(logits[0], seen, *SETTINGS),
    }
    scores, calls = [], {}
    for module, net in (
        (modules.GreedyHead(), graphs.greedy_head(geometry)),
        (modules.SampleHead(), graphs.sample_head(geometry)),
    ):
        taken = {t.name: given[t.name] for t in net.inputs}
        ours, theirs = chain.torch_runner(module, net)(taken), nets[net.name](taken)
        found = probabilities(ours, geometry.vocab) if net.name == graphs.SAMPLE_HEAD else logits[0, ours["token_id"]]
        worst = max(distance(ours[name], theirs[name]) for name in ours)
        scores += [
            Score(PATCHED, net.name, None, "max_abs", float(np.abs(found - wanted[net.name]).max()), MAX_ABS_PATCHED),
            Score(ONNX, net.name, None, "max_abs", worst, MAX_ABS_ONNX),
        ]
        calls[net.name] = Call(taken, theirs)
    return scores, calls


def inputs(
    logits: Array, seen: Sequence[int], settings: tuple[float, int, float, float], seq_length: int
) -> dict[str, Array]:
    """Those of sample_head, of which m_logits is greedy_head's. `logits` [1, V]; `settings` as in `distribution`."""
    temperature, top_k, top_p, penalty = settings
    return {
        "m_logits": logits,
        "input_ids": np.array([[*seen, *[seen[-1]] * seq_length][:seq_length]], np.int32),
        "penalty": np.array([penalty], np.float32),
        "temperature": np.array([temperature], np.float32),
        "top_k": np.array([top_k], np.int32),
        "top_p": np.array([top_p], np.float32),
    }


def probabilities(outputs: Mapping[str, Array], vocab: int) -> NDArray[np.float64]:
    """float64 [V]: of each token, what sample_head's outputs say."""
    found = np.zeros(vocab)
    np.add.at(found, outputs["token_idx"][0], outputs["probs"][0])
    return found


def distribution(
    logits: Array, seen: Sequence[int], temperature: float, top_k: int, top_p: float, penalty: float
) -> NDArray[np.float64]:
    """float64 [V]: what `generate` of Hugging Face draws the next token from. `logits` [V]. `top_k` 0: all."""
    processors = LogitsProcessorList()
    if penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty))
    processors.append(TemperatureLogitsWarper(temperature))
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    scores = processors(torch.tensor([list(seen)]), torch.from_numpy(logits).double()[None])
    found: NDArray[np.float64] = torch.softmax(scores, -1)[0].numpy()
    return found
