"""The report: what a manifest holds is there, failures are marked, nothing is fetched, text is never markup."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compile import llm_convert_cycles
from compile.charts import Point, line_chart
from compile.report import NAME, render, write_report
from contract import graphs, ladder, manifest
from contract.ladder import Score
from contract.manifest import Manifest

LAYERS = 3
CYCLES = {
    "embedding": 61_000,
    "embedding_cache": 3_100,
    "block": 2_141_767,
    "block_cache": 185_905,
    "lm_head": 2_668_253,
}


def scores(bad: tuple[str, int] | None = None) -> list[Score]:
    """All four rungs; the chip's cosine of layers from `bad`'s on is below the bar for `bad`'s kind of net."""
    found = []
    for layer in range(LAYERS):
        for kind in ("block", "block_cache"):
            net = f"{kind}_{layer}"
            cosine = 0.5 if bad and kind == bad[0] and layer >= bad[1] else 0.99 - layer / 1000
            found.append(Score(ladder.PATCHED, net, layer, "max_abs", 1e-7, ladder.MAX_ABS_PATCHED))
            found.append(Score(ladder.ONNX, net, layer, "max_abs", 0.0, ladder.MAX_ABS_ONNX))
            found.append(Score(ladder.CHIP, net, layer, "cosine", cosine, ladder.MIN_COSINE["int4"], "output k_cache"))
    agreement = Score(ladder.TOKENS, "model", None, "agreement", 60 / 64, ladder.MIN_AGREEMENT["int4"], "60 of 64")
    return [*found, agreement]


def made(parity: list[Score], **changes: object) -> Manifest:
    geometry = graphs.Geometry(LAYERS, 896, 2, 64, 64, 151936, 512)
    nets = {
        net.name: {
            "kind": net.kind,
            "layer": net.layer,
            "quantize": "W4BF16",
            "cycles": CYCLES[net.kind],
            "bytes": 8 << 20,
            "seconds": 4.5,
        }
        for net in graphs.decoder_graphs(geometry, top1=True)
    }
    values = {
        "name": "qwen2.5-0.5b_int4_seq512_bm1684x_1dev",
        "bmodel": "all.bmodel",
        "recipe": "qwen2.5-0.5b",
        "model": {"source": "Qwen/Qwen2.5-0.5B-Instruct", "hashes": {"config.json": "ab" * 32}},
        "options": {"mode": "int4", "chip": "bm1684x", "devices": 1, "seq_length": 512, "group_size": 64},
        "geometry": dict(geometry.__dict__),
        "tools": {"tpu_mlir": "1.30.2"},
        "nets": nets,
        "parity": [s.as_json() for s in parity],
        "status": manifest.VERIFIED,
        "reason": "every rung passes",
        "seconds": {"trace": 21.0, "deploy_block_0": 4.0, "deploy_block_1": 5.0, "combine": 61.0},
    }
    return Manifest(**{**values, **changes})


class Reader(HTMLParser):
    """Text and tags of a page; unclosed or crossed tags are errors."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes, self._open = "", [], [], []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br") and not (self.get_starttag_text() or "").endswith("/>"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += f"{data} "

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", self.text)


def read(built: Manifest, size: int | None = 5 << 20) -> Reader:
    return Reader(render(built, size))


def test_a_verified_build_shows_its_figures() -> None:
    words = read(made(scores())).words
    prefill = 61_000 + LAYERS * 2_141_767 + 2_668_253
    decode = 3_100 + LAYERS * 185_905 + 2_668_253
    for piece in (
        "qwen2.5-0.5b_int4_seq512_bm1684x_1dev verified every rung passes",
        "bmodel 5.0 MiB",
        f"prompt of 512 {prefill / 1e6:.1f} ms",
        f"each further token {decode / 1e6:.2f} ms",
        "token agreement 93.8 % at least 70.0 % asked",
        f"Prefill: {prefill:,} cycles",
        f"One decode token: {decode:,} cycles",
        "hashes config.json " + "ab" * 32,
        "tpu mlir 1.30.2",
        "2 x deploy_block 9.0 s",
        "combine 1 min 1 s",
    ):
        assert piece in words
    assert "The error enters" not in words
    assert "failed" not in words


def test_time_on_the_clock_is_no_step() -> None:
    built = made(scores())
    assert "steps, added up 1 min 31 s 4 steps" in read(built).words
    built.seconds["wall"] = 75.0
    words = read(built).words
    assert "built in 1 min 15 s 4 steps, 1 min 31 s if run one by one" in words
    assert "wall" not in words


def test_our_cycles_stand_beside_the_vendors() -> None:
    words = read(made(scores())).words
    assert "block 3 W4BF16 2,141,767 6,425,301 2,370,793 -9.7 %" in words
    assert "block_cache 3 W4BF16 185,905 557,715 191,096 -2.7 %" in words
    assert "lm_head 1 W4BF16 2,668,253 2,668,253 6,974,819 -61.7 %" in words


@pytest.mark.parametrize(
    ("part", "key", "value"), [("options", "mode", "bf16"), ("options", "devices", 4), ("geometry", "hidden", 1024)]
)
def test_other_sizes_are_not_compared(part: str, key: str, value: object) -> None:
    built = made(scores())
    getattr(built, part)[key] = value
    assert "2,370,793" not in read(built).words


def test_a_figure_needs_what_the_model_says_of_itself() -> None:
    sizes = {**made([]).geometry, **made([]).options}
    assert llm_convert_cycles.find("block", sizes) == 2_370_793
    assert llm_convert_cycles.find("block", {**sizes, "intermediate": 4864, "heads": 14}) == 2_370_793
    assert llm_convert_cycles.find("block", {**sizes, "intermediate": 4096}) is None
    assert llm_convert_cycles.find("block", {**sizes, "chip": "bm1688"}) == 6_572_936


@pytest.mark.parametrize(
    ("bad", "net", "marks"), [(("block", 1), "block_1", 2), (("block_cache", 0), "block_cache_0", 3)]
)
def test_a_failure_is_named_and_marked(bad: tuple[str, int], net: str, marks: int) -> None:
    page = read(made(scores(bad), status=manifest.FAILED, reason="below its bar"))
    assert (
        f"The error enters at rung “Chip or simulator against ONNX Runtime”, layer {bad[1]}, net {net}." in page.words
    )
    assert "cosine 0.5, where at least 0.96 is asked. output k_cache." in page.words
    assert f"✗ {marks} failed" in page.words
    assert sum(name == "class" and (value or "").endswith(" bad") for name, value in page.attributes) == marks


def test_values_that_are_no_numbers_fail_visibly() -> None:
    parity = [*scores()[:-1], Score(ladder.TOKENS, "model", None, "agreement", math.nan, 0.7, "the simulator stopped")]
    parity[2] = Score(ladder.CHIP, "block_0", 0, "cosine", math.nan, 0.96, "no reference")
    page = read(made(parity, status=manifest.FAILED))
    assert "layer 0, net block_0. cosine not a number, where" in page.words
    assert "layer 0, prefill: not a number" in page.words
    assert "nan" not in page.words.lower().replace("not a number", "")


def test_a_build_without_verification_says_so() -> None:
    words = read(made([], status=manifest.UNVERIFIED, reason="")).words
    assert "unverified" in words
    assert "Not verified." in words


def test_an_empty_manifest_makes_a_page() -> None:
    bare = Manifest("x", "x.bmodel", "x", {}, {}, {})
    words = read(bare, None).words
    assert "bmodel n/a file size" in words
    assert "No net was compiled." in words


def test_a_net_without_cycles_leaves_its_sum_open() -> None:
    built = made(scores())
    built.nets["block_1"]["cycles"] = None
    words = read(built).words
    assert "Prefill:" not in words
    assert "block 3 W4BF16 2,141,767 n/a" in words


def test_markup_in_a_manifest_stays_text() -> None:
    evil = '<script>alert("1")</script><img src=x onerror=y>'
    parity = [Score(ladder.CHIP, evil, 0, "cosine", 0.1, 0.96, evil), *scores()]
    built = made(parity, name=evil, recipe=evil, reason=evil, status=manifest.FAILED, seconds={evil: 1.0})
    built.model[evil] = evil
    built.tools["t"] = evil
    built.nets[evil] = {"kind": "block", "layer": 0, "quantize": evil, "cycles": 1, "bytes": 1, "seconds": 1.0}
    page = read(built)
    assert not {"script", "img"} & set(page.tags)
    assert page.words.count('<script>alert("1")</script>') >= 8


def test_the_page_needs_nothing_from_outside() -> None:
    page = read(made(scores()))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not {"href", "src"} & {name for name, _ in page.attributes}
    source = render(made(scores()), None)
    assert "url(" not in source
    assert "@import" not in source
    assert "://" not in source


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    (tmp_path / "all.bmodel").write_bytes(b"0" * 2048)
    write_report(made(scores()), tmp_path)
    assert "bmodel 2.0 KiB" in Reader((tmp_path / NAME).read_text(encoding="utf-8")).words
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.bmodel", NAME]


def heights(values: list[float], bar: float, log: bool) -> tuple[list[float], float]:
    chart = line_chart("t", "n", {"a": [Point(i, v, True) for i, v in enumerate(values)]}, bar, log)
    for tick in (*chart.x_ticks, *chart.y_ticks):
        assert 0 <= tick.at <= chart.width
    assert all(chart.left < m.x < chart.right and chart.top <= m.y <= chart.bottom for m in chart.lines[0].marks)
    return [mark.y for mark in chart.lines[0].marks], chart.bar


@pytest.mark.parametrize("values", [[0.999999, 0.9995, 0.9], [1.0, 0.96, -0.3], [0.97, 0.965, 0.961]])
def test_higher_cosines_lie_higher_and_the_bar_between(values: list[float]) -> None:
    found, bar = heights(values, 0.962, log=False)
    assert found == sorted(found)
    assert [y < bar for y in found] == [v > 0.962 for v in values]


@pytest.mark.parametrize("values", [[1e-2, 1e-4, 1e-7], [2e-5, 9e-6, 0.0], [1e3, 1e-12, 0.0]])
def test_larger_differences_lie_higher_and_the_bar_between(values: list[float]) -> None:
    found, bar = heights(values, 1e-5, log=True)
    assert found == sorted(found)
    assert [y < bar for y in found] == [v > 1e-5 for v in values]


def test_equal_and_missing_values_have_a_place() -> None:
    assert heights([1.0, 1.0], 0.999, log=False)[0] == pytest.approx([12.0, 12.0])
    assert heights([math.nan, math.inf], 0.999, log=False)[0] == [180, 180]
    assert heights([0.0], 1e-5, log=True)[0] == [180]


def test_layer_numbers_stay_apart() -> None:
    points = [Point(layer, 0.99, True) for layer in range(80)]
    ticks = [int(t.label) for t in line_chart("t", "n", {"a": points}, 0.9, log=False).x_ticks]
    assert ticks == list(range(0, 80, 10))
