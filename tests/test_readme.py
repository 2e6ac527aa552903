"""The READMEs keep up with the repository: generated tables, links, targets, and the same content in both languages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from contract.options import by_variable

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh.md")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)")
MAKE = re.compile(r"\bmake ((?:[A-Z_]+=\S+ )*)([a-z][\w.-]*)((?: [A-Z_]+=[^\s`]+)*)")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def tables(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/readme_tables.py", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_tables_are_those_that_the_code_gives() -> None:
    done = tables("--check")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {path}"
        if anchor:
            heads = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
            assert anchor in anchors, f"{page.name} links to #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_is_told_what_it_knows(page: Path) -> None:
    """Every `make target VARIABLE=value` of the pages, by make's own lists."""
    makefile = text("Makefile")
    targets = re.search(r"^TARGETS := (.*)", makefile, re.MULTILINE)
    assert targets
    known = {*targets[1].split(), *(path.stem for path in (ROOT / "recipes").glob("*.yaml"))}
    code = re.findall(r"`[^`\n]+`|^    .*", page.read_text(encoding="utf-8"), re.MULTILINE)
    for before, target, after in (call for part in code for call in MAKE.findall(part)):
        assert target in known, f"{page.name}: make {target}"
        names = {word.partition("=")[0] for word in (before + after).split()}
        assert names <= {*by_variable(), "PYTHON"}, f"{page.name}: {names}"


def test_both_languages_have_the_same_parts() -> None:
    english, chinese = map(text, READMES)
    for what in (
        r"^(#+) ",
        r"^    .*(make [a-z]\S*|hf2bmodel \w+)",
        r"<!-- table: (\w+) -->",
        r"!\[[^\]]*\]\(([^)]*)\)",
    ):
        assert re.findall(what, english, re.MULTILINE) == re.findall(what, chinese, re.MULTILINE), what
    assert measured(english) == measured(chinese)


def measured(readme: str) -> list[list[str]]:
    """The figures of the table of measurements, without its head."""
    part = re.search(r"<!-- measured -->\n(.*?)<!-- end -->", readme, re.DOTALL)
    assert part
    return [re.findall(r"[\d.,]+", line) for line in part[1].splitlines()[2:]]


def test_every_folder_is_named() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    folders = {line.split("/")[0] for line in listed.splitlines() if "/" in line and not line.startswith(".")}
    for name in READMES:
        named = set(re.findall(r"^    (\w+)/ ", text(name), re.MULTILINE))
        assert folders <= named, f"{name} leaves out {folders - named}"


def test_pictures_are_small_and_fetch_nothing() -> None:
    pictures = {ROOT / path for path in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text("README.md"))}
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 300_000, picture
        if picture.suffix == ".svg":
            assert "url(http" not in picture.read_text(encoding="utf-8").replace('"', "")


def test_a_stale_table_is_noticed(tmp_path: Path) -> None:
    """The check can fail: a table of a copy of the README is damaged, and `filled` mends it."""
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import readme_tables as t; "
        "old = open('README.md', encoding='utf-8').read(); bad = old.replace('`stories15m` | npm', '`other` | npm'); "
        "assert bad != old; assert t.filled('README.md', bad) == old"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
