"""Writes the tables of README.md and README.zh.md from recipes/*.yaml and the contract, between their markers.

python scripts/readme_tables.py [--check]     --check writes nothing; exit 1 where a table is stale
"""
# ruff: noqa: RUF001  (Chinese punctuation is meant)

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compile import estimate, plan
from contract import graphs, ladder
from contract.errors import UserError
from contract.modes import CHIPS, DEVICES, MODES
from exporters.spec import from_sizes
from recipes.recipe import HubSource, NpmSource, Recipe, load, names

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, CHINESE = "README.md", "README.zh.md"
Row = tuple[object, ...]
_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

WORDS = {
    ENGLISH: {
        "modes": ("`MODE`", "blocks", "vocabulary projection", "embedding table", "arithmetic"),
        "ladder": ("rung", "what is compared", "measure", "bar"),
        "bars": ("`MODE`", "`chip`: cosine of every net, at least", "`tokens`: equal, of 64, at least"),
        "chips": ("`CHIP`", "cores used", "simulator, in the tpu-mlir wheel"),
        "recipes": (
            *("target", "checkpoint", "layers", "hidden", "`MODE`", "`SEQ`", "model's limit", "`DEV`"),
            "free disk asked for",
        ),
        "patched": ("patched torch against unpatched Hugging Face", "largest difference of hidden states, float32"),
        "onnx": ("each ONNX graph in ONNX Runtime against patched torch", "largest difference, float32"),
        "chip": ("each net of the bmodel against ONNX Runtime", "cosine, the mean over positions"),
        "tokens": ("the whole bmodel against Hugging Face in float32", "equal tokens, teacher-forced"),
        "by mode": ("by mode, below",),
        "most": ("at most {}",),
    },
    CHINESE: {
        "modes": ("`MODE`", "各层 block", "词表投影", "词嵌入表", "计算精度"),
        "ladder": ("阶", "比较对象", "度量", "门限"),
        "bars": ("`MODE`", "`chip`：每个网络的余弦相似度不低于", "`tokens`：64 个位置中一致的不少于"),
        "chips": ("`CHIP`", "使用的核数", "模拟器（在 tpu-mlir wheel 内）"),
        "recipes": ("目标", "权重来源", "层数", "隐层宽度", "`MODE`", "`SEQ`", "模型上限", "`DEV`", "要求的空闲磁盘"),
        "patched": ("打补丁后的 torch 与原版 Hugging Face", "隐藏状态的最大差值（float32）"),
        "onnx": ("ONNX Runtime 运行的每张图与打补丁后的 torch", "最大差值（float32）"),
        "chip": ("bmodel 中的每个网络与 ONNX Runtime", "余弦相似度，对各位置取平均"),
        "tokens": ("整个 bmodel 与 float32 的 Hugging Face", "teacher forcing 下一致的 token"),
        "by mode": ("按模式，见下表",),
        "most": ("不超过 {}",),
    },
}


def modes(_: str) -> Iterable[Row]:
    every = [load(name) for name in names()]

    def words(kind: str, mode: str) -> str:
        return " / ".join(sorted({f"`{recipe.quantize(kind, mode)}`" for recipe in every}))

    kinds = (graphs.BLOCK, graphs.LM_HEAD, graphs.EMBEDDING)
    return [(f"`{m.name}`", *(words(kind, m.name) for kind in kinds), m.half) for m in MODES.values()]


def rungs(file: str) -> Iterable[Row]:
    bars = {ladder.PATCHED: ladder.MAX_ABS_PATCHED, ladder.ONNX: ladder.MAX_ABS_ONNX}
    for number, rung in enumerate(ladder.RUNGS, 1):
        (by_mode,), (most,) = WORDS[file]["by mode"], WORDS[file]["most"]
        yield f"{number}. `{rung}`", *WORDS[file][rung], most.format(f"{bars[rung]:.0e}") if rung in bars else by_mode


def bars(_: str) -> Iterable[Row]:
    assert ladder.MIN_POSITIONS == 64  # the table's head says so
    return [(f"`{m}`", ladder.MIN_COSINE[m], round(ladder.MIN_AGREEMENT[m] * ladder.MIN_POSITIONS)) for m in MODES]


def chips(_: str) -> Iterable[Row]:
    return [(f"`{chip.name}`", chip.cores, f"`{chip.simulator}`") for chip in CHIPS.values()]


def recipes(_: str) -> Iterable[Row]:
    for recipe in sorted(map(load, names()), key=lambda r: (r.architecture, r.name)):
        assert recipe.sizes is not None, f"recipes/{recipe.name}.yaml has no sizes"
        spec = from_sizes(recipe.architecture, recipe.sizes)
        disk = estimate.disk(spec, recipe.mode, recipe.seq_length)
        devices = ", ".join(str(n) for n in DEVICES if _fits(recipe, n))
        sizes = (spec.layers, spec.hidden, recipe.mode, recipe.seq_length, spec.max_positions)
        yield f"`{recipe.name}`", _source(recipe), *sizes, devices, f"{disk / estimate.GB:.1f} GB"


def _fits(recipe: Recipe, devices: int) -> bool:
    """Whether the model can be split over so many devices in the recipe's own mode."""
    assert recipe.sizes is not None
    spec = from_sizes(recipe.architecture, recipe.sizes)
    chosen = plan.Options(recipe.mode, "bm1684x", devices, recipe.seq_length, recipe.head, recipe.group_size)
    try:
        plan.make_plan(recipe, spec, Path("model"), Path("out"), chosen)
    except UserError:
        return False
    return True


def _source(recipe: Recipe) -> str:
    source = recipe.source
    if isinstance(source, HubSource):
        return f"[{source.hub}](https://huggingface.co/{source.hub})"
    return f"npm `{source.npm}`" if isinstance(source, NpmSource) else f"PyPI `{source.pypi}`"


TABLES: dict[str, Callable[[str], Iterable[Row]]] = {
    "modes": modes,
    "ladder": rungs,
    "bars": bars,
    "chips": chips,
    "recipes": recipes,
}


def filled(file: str, text: str) -> str:
    """`text` of README `file` with every table as it should be. KeyError for a marker that names no table."""

    def table(found: re.Match[str]) -> str:
        head = WORDS[file][found[2]]
        rows = [head, ("---",) * len(head), *TABLES[found[2]](file)]
        lines = ("| " + " | ".join(map(str, row)) + " |\n" for row in rows)
        return found[1] + "".join(lines) + found[3]

    return _MARKED.sub(table, text)


def main(argv: list[str]) -> int:
    stale = []
    for file in (ENGLISH, CHINESE):
        path = ROOT / file
        text = path.read_text(encoding="utf-8")
        wanted = filled(file, text)
        if wanted != text:
            stale.append(file)
            if argv != ["--check"]:
                path.write_text(wanted, encoding="utf-8")
    if stale and argv == ["--check"]:
        print(f"stale tables in {' and '.join(stale)}: run python scripts/readme_tables.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
