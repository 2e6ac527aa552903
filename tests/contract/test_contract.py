"""The contract itself: names, shapes, the ladder's judgement, errors and manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract import graphs, ladder, manifest
from contract.errors import UserError
from contract.ladder import Score

SIZES = graphs.Geometry(layers=2, hidden=8, kv_heads=2, head_dim=4, v_head_dim=4, vocab=100, seq_length=16)


def test_nets_are_named_as_llm_convert_names_them() -> None:
    names = [net.name for net in graphs.decoder_graphs(SIZES, top1=False)]
    assert names == [
        *("embedding", "embedding_cache", "block_0", "block_cache_0", "block_1", "block_cache_1"),
        *("lm_head", "greedy_head", "sample_head"),
    ]


def test_a_decode_step_returns_the_new_step_only() -> None:
    net = graphs.block_cache(SIZES, 1)
    shapes = {t.name: (t.shape, t.dtype) for t in (*net.inputs, *net.outputs)}
    assert shapes["attention_mask"] == ((1, 1, 1, 17), "bfloat16")
    assert shapes["history_k"] == ((1, 16, 2, 4), "bfloat16")
    assert shapes["k_cache"] == ((1, 1, 2, 4), "bfloat16")
    assert shapes["position_ids"] == ((1, 1), "int32")


def test_onnx_is_float32_where_the_chip_is_half() -> None:
    net = graphs.lm_head(SIZES, top1=False).as_onnx()
    assert net.inputs[0].dtype == "float32"
    assert graphs.embedding(SIZES).as_onnx().inputs[0].dtype == "int32"


@pytest.mark.parametrize(
    ("metric", "value", "passed"),
    [
        *(("max_abs", 0.1, True), ("max_abs", 0.3, False), ("max_abs", float("nan"), False)),
        *(("cosine", 0.3, True), ("cosine", 0.1, False), ("cosine", float("nan"), False)),
    ],
)
def test_nan_passes_no_bar(metric: str, value: float, passed: bool) -> None:
    assert Score("chip", "block_0", 0, metric, value, 0.2).passed is passed


def test_the_first_failure_is_where_the_error_enters() -> None:
    def score(rung: str, net: str, layer: int | None, value: float) -> Score:
        return Score(rung, net, layer, "cosine", value, 0.5)

    scores = [
        *(score("tokens", "model", None, 0.0), score("chip", "lm_head", None, 0.0)),
        *(score("chip", "block_cache_3", 3, 0.0), score("chip", "block_7", 7, 0.0), score("chip", "block_3", 3, 0.0)),
        score("onnx", "block_0", 0, 1.0),
    ]
    assert ladder.first_failure(scores) == scores[4]
    assert ladder.first_failure([*scores, score("chip", "embedding", None, 0.0)]).net == "embedding"  # type: ignore[union-attr]
    assert ladder.first_failure(scores[-1:]) is None


def test_an_error_is_one_line() -> None:
    assert str(UserError('mode "int3"\nis unknown', "recipes/a.yaml:4", "use int4")) == (
        'recipes/a.yaml:4: mode "int3" is unknown; use int4'
    )


def test_a_manifest_survives_the_disk(tmp_path: Path) -> None:
    scores = [Score("chip", "block_0", 0, "cosine", 0.9, 0.5).as_json()]
    made = manifest.Manifest("n", "n.bmodel", "r", {"path": "/m"}, {"mode": "int4"}, {"layers": 2}, parity=scores)
    manifest.write(made, tmp_path)
    assert manifest.read(tmp_path) == made
    assert ladder.score_from_json(manifest.read(tmp_path).parity[0]).passed
    (tmp_path / "manifest.json").write_text('{"schema": 1}')
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest"):
        manifest.read(tmp_path)
    with pytest.raises(UserError, match=r"no manifest\.json here; name the folder"):
        manifest.read(tmp_path / "other")
