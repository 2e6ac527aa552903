"""Writes the tables of README.md and README.zh.md, between their markers, from recipes/*.yaml, the contract, and
tests/zoo.json, what the last run of the zoo's tests found: {case: {mode: {rung: word}}}, with "passed" for a rung that
was passed, "not run" for one that was left out, and anything else for one that failed. The cases are those of
tests/tiny.py and tests/remote_models.py.

python scripts/readme_tables.py [--check]     --check writes nothing; exit 1 where a table is stale
"""
# ruff: noqa: RUF001  (Chinese punctuation is meant)

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli.zoo import count, gigabytes
from compile import estimate, plan
from contract import graphs, ladder
from contract.errors import UserError
from contract.modes import CHIPS, DEVICES, MODES
from exporters.spec import DecoderSpec, from_config
from recipes.recipe import HubSource, NpmSource, Recipe, load, names, origin
from tests import remote_models, remote_vision, tiny, vision_models

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, CHINESE = "README.md", "README.zh.md"
ZOO = ROOT / "tests" / "zoo.json"
PASSED, LEFT_OUT = "passed", "not run"
Row = tuple[object, ...]
Climbs = dict[str, dict[str, str]]
_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

WORDS = {
    ENGLISH: {
        "modes": ("`MODE`", "blocks", "vocabulary projection", "embedding table", "arithmetic"),
        "ladder": ("rung", "what is compared", "measure", "bar"),
        "bars": ("`MODE`", "`chip`: cosine of every net, at least", "`tokens`: equal, at least"),
        "chips": ("`CHIP`", "cores used", "simulator, in the tpu-mlir wheel"),
        "no simulator": ("none: compiled only",),
        "recipes": (
            *("target", "checkpoint", "parameters", "layers", "hidden", "`SEQ`", "model's limit", "`DEV`"),
            *("bmodel in int4", "free disk asked for"),
        ),
        "zoo": ("`model_type`", "recipes", "`TRUST_REMOTE_CODE=1`", "highest rung that its tests passed, by `MODE`"),
        "needed": ("needed",),
        "not run": ("not run",),
        "failed": ("**failed** on `{}` ({})",),
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
        "bars": ("`MODE`", "`chip`：每个网络的余弦相似度不低于", "`tokens`：一致的不少于"),
        "chips": ("`CHIP`", "使用的核数", "模拟器（在 tpu-mlir wheel 内）"),
        "no simulator": ("无：只编译",),
        "recipes": (
            *("目标", "权重来源", "参数量", "层数", "隐层宽度", "`SEQ`", "模型上限", "`DEV`"),
            *("int4 bmodel", "要求的空闲磁盘"),
        ),
        "zoo": ("`model_type`", "配方", "`TRUST_REMOTE_CODE=1`", "各 `MODE` 的测试通过的最高一阶"),
        "needed": ("需要",),
        "not run": ("未运行",),
        "failed": ("在 `{}` 上**未通过**（{}）",),
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
    return [(f"`{m}`", ladder.MIN_COSINE[m], f"{ladder.MIN_AGREEMENT[m]:.0%}") for m in MODES]


def chips(language: str) -> Iterable[Row]:
    (none,) = WORDS[language]["no simulator"]
    return [(f"`{c.name}`", c.cores, f"`{c.simulator}`" if c.simulator else none) for c in CHIPS.values()]


def recipes(_: str) -> Iterable[Row]:
    for recipe, spec in zoo_by_size():
        disk = plan.make_plan(recipe, spec, Path("model"), Path("out"), plan.settle(recipe, {})).disk
        size = estimate.bmodel_bytes(recipe, spec, "int4", recipe.seq_length, recipe.group_size)
        devices = ", ".join(str(n) for n in DEVICES if _fits(recipe, spec, n))
        sizes = (count(spec.parameters), spec.layers, spec.hidden, recipe.seq_length, spec.max_positions)
        yield f"`{recipe.name}`", _source(recipe), *sizes, devices, gigabytes(size), gigabytes(disk)


def zoo_by_size() -> list[tuple[Recipe, DecoderSpec]]:
    every = map(load, names())
    read = [(recipe, from_config(recipe.architecture, recipe.config or {}, origin(recipe.name))) for recipe in every]
    return sorted(read, key=lambda pair: (pair[0].architecture, pair[1].parameters, pair[0].name))


def _fits(recipe: Recipe, spec: DecoderSpec, devices: int) -> bool:
    """Whether the model can be split over so many devices in the recipe's own mode."""
    chosen = plan.settle(recipe, {"devices": devices})
    try:
        plan.make_plan(recipe, spec, Path("model"), Path("out"), chosen)
    except UserError:
        return False
    return True


def zoo(file: str) -> Iterable[Row]:
    found = json.loads(ZOO.read_text(encoding="utf-8")) if ZOO.is_file() else {}
    by_architecture: dict[str, list[Recipe]] = defaultdict(list)
    for recipe, _ in zoo_by_size():
        by_architecture[recipe.architecture].append(recipe)
    cases: dict[str, dict[str, Climbs]] = {architecture: {} for architecture in by_architecture}
    for case, modes in found.items():
        cases[_model_type(case)][case] = modes
    for architecture, own in sorted(by_architecture.items()):
        listed = ", ".join(f"`{recipe.name}`" for recipe in own)
        remote = WORDS[file]["needed"][0] if any(recipe.remote_code for recipe in own) else ""
        yield f"`{architecture}`", listed, remote, climbed(file, cases[architecture])


def _model_type(case: str) -> str:
    """KeyError for a case that the tests do not have."""
    for cases in (tiny.CASES, vision_models.CASES, remote_vision.CASES):
        if case in cases:
            return str(cases[case].model_type)
    return str(remote_models.CASES[case].config["model_type"])


def climbed(file: str, cases: dict[str, Climbs]) -> str:
    """Modes by the highest rung reached, and by how many of the cases that tried the mode; or the first failure.

    `cases` by mode, and by rung what came of it. KeyError for a rung that the contract does not know.
    """
    by_cell: dict[str, list[str]] = defaultdict(list)
    for mode in MODES:
        tried = {case: _run(case, modes.get(mode, {})) for case, modes in cases.items()}
        if any(tried.values()):
            by_cell[_cell(file, {case: rungs for case, rungs in tried.items() if rungs})].append(f"`{mode}`")
    return "; ".join(f"{', '.join(modes)}: {cell}" for cell, modes in by_cell.items()) or WORDS[file]["not run"][0]


def _run(case: str, rungs: dict[str, str]) -> dict[str, str]:
    unknown = set(rungs) - set(ladder.RUNGS)
    if unknown:
        raise KeyError(f"{ZOO.name}: {case}: no such rung: {', '.join(sorted(unknown))}")
    return {rung: rungs[rung] for rung in ladder.RUNGS if rungs.get(rung, LEFT_OUT) != LEFT_OUT}


def _cell(file: str, tried: dict[str, dict[str, str]]) -> str:
    for rung in ladder.RUNGS:
        for case, rungs in tried.items():
            if rungs.get(rung, PASSED) != PASSED:
                return WORDS[file]["failed"][0].format(rung, f"`{case}`")
    highest = [rung for rung in ladder.RUNGS if any(rung in rungs for rungs in tried.values())][-1]
    count = sum(highest in rungs for rungs in tried.values())
    return f"`{highest}`" if count == len(tried) else f"`{highest}` ({count}/{len(tried)})"


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
    "zoo": zoo,
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
