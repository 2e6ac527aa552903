"""What docs/ says is so: its snippets are the files, its options the command line's, its messages the program's."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli import main
from contract.ladder import first_failure
from contract.options import BUILD, Option, by_variable
from exporters import architecture
from exporters.model import Decoder
from exporters.parity import climb
from tests import tiny
from tests.exporters.test_export import SEQ, export

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SNIPPET = re.compile(r'```\w+ title="(from )?([^"]+)"\n(.*?)```', re.DOTALL)
SNIPPETS = [(p, *found) for p in sorted(DOCS.glob("*.md")) for found in SNIPPET.findall(p.read_text(encoding="utf-8"))]
FOLDERS = ("contract", "recipes", "patches", "exporters", "compile", "runtime", "cli", "scripts")
COMMON = {"-h", "--help"}


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 4


@pytest.mark.parametrize(("page", "part", "file", "snippet"), SNIPPETS, ids=lambda v: str(v) if v in FOLDERS else None)
def test_snippets_are_the_files(page: Path, part: str, file: str, snippet: str) -> None:
    content = (ROOT / file).read_text(encoding="utf-8")
    if part:
        assert f"\n{snippet}" in f"\n{content}", f"{page.name}: these lines are not in {file}"
    else:
        assert snippet == content, f"{page.name}: not what {file} holds"


def test_the_walk_through_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its table and its row, as they stand on the page, without the ones in the repository."""
    page = {file: snippet for path, _, file, snippet in SNIPPETS if path.name == "adding-an-architecture.md"}
    made: dict[str, Any] = {}
    exec(page["exporters/qwen3.py"], made)
    rows = eval(f"{{{page['tests/tiny.py']}}}", {"Tiny": tiny.Tiny})
    monkeypatch.setattr(architecture, "tables", lambda: {"qwen3": made["ARCHITECTURE"]})
    monkeypatch.setattr(tiny, "CASES", rows)
    folder = tiny.make("qwen3", tmp_path / "checkpoint")
    export(folder, tmp_path, None)
    scores = climb(Decoder(folder), tmp_path, SEQ, "Hello", 64, tmp_path)
    assert len(scores) > 8
    assert first_failure(scores) is None


@pytest.mark.parametrize("option", [o for o in BUILD if o.name not in ("mode", "seq_length")], ids=lambda o: o.name)
def test_each_option_that_changes_the_bytes_has_a_section_and_tests(option: Option) -> None:
    sections = re.findall(r"^## .*", (DOCS / "options.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert any(f"`{option.variable}=" in title for title in sections)
    names = (option.name, option.name.partition("_")[0])
    assert any((ROOT / "tests" / "options" / f"test_{name}.py").is_file() for name in names)


def commands() -> dict[str, argparse.ArgumentParser]:
    parser = main._parser()
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings} - COMMON


def sections() -> dict[str, str]:
    """The text of command-line.md by command."""
    parts = re.split(r"^## ", (DOCS / "command-line.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for part in parts:
        head, _, body = part.partition("\n")
        found |= dict.fromkeys(re.findall(r"hf2bmodel (\w+)", head), body)
        if head == "Make":
            found["make"] = body
    return found


@pytest.mark.parametrize("name", commands())
def test_every_option_is_documented_and_none_is_made_up(name: str) -> None:
    described = sections()
    assert name in described, f"docs/command-line.md has no section for hf2bmodel {name}"
    shared = set(re.findall(r"`(--[\w-]+)`", described["make"])) if name == "build" else set()
    told = {o for row in re.findall(r"^\| (.*?) \|", described[name], re.M) for o in re.findall(r"`(--[\w-]+)`", row)}
    # An option that is on or off has a second form.
    wanted = {o for o in options(commands()[name]) if not o.startswith("--no-")}
    assert wanted <= told | shared, f"not documented: {wanted - told - shared}"
    neighbours = {o for other, body in described.items() if body == described[name] for o in options_of(other)}
    assert told | shared <= neighbours, f"does not exist: {(told | shared) - neighbours}"


def options_of(name: str) -> set[str]:
    return options(commands()[name]) if name in commands() else set()


def test_every_target_and_variable_of_make_is_documented() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    page = sections()["make"]
    line = re.search(r"^TARGETS := (.*)", makefile, re.MULTILINE)
    assert line
    assert set(re.findall(r"`make ([a-z-]+)`", page)) | {"help"} == set(line[1].split())
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)) == {*by_variable(), "PYTHON"}


def test_quoted_messages_are_the_programs() -> None:
    """First cells of troubleshooting.md; `…` stands for what differs. Fragments must stand in the sources."""
    sources = "\n".join(p.read_text(encoding="utf-8") for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
    sources += (ROOT / "Makefile").read_text(encoding="utf-8")
    joined = re.sub(r'"\s*\n\s*f?"', "", sources).replace("\\'", "'")  # strings that go on over lines
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    cells = [cell for cell in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) if cell.count("`") >= 2]
    fragments = {f.strip(" ;:()'\"") for cell in cells for m in re.findall(r"`([^`]+)`", cell) for f in m.split("…")}
    wanted = {f for f in fragments if len(f) > 3}
    assert len(wanted) > 40
    assert not {f for f in wanted if f not in joined}


def test_a_recording_shows_what_stood_on_the_screen(tmp_path: Path) -> None:
    """scripts/record.py on a live display: what was erased is gone, what stayed is drawn, the exit code is kept."""
    program = (
        "import sys, time; w = sys.stdout.write; w('first\\n  busy\\n'); sys.stdout.flush(); time.sleep(0.8)\n"
        "w('\\x1b[1A\\x1b[2K\\x1b[32mdone\\x1b[0m \\u4e2d\\u6587!\\nabc\\rx\\n'); sys.exit(3)"
    )
    early, late = tmp_path / "early.svg", tmp_path / "late.svg"
    command = [sys.executable, "scripts/record.py", "--at", f"0.5:{early}", str(late), "--", sys.executable, "-c"]
    done = subprocess.run([*command, program], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 3
    assert "busy" in drawn(early)
    assert "done" not in drawn(early)
    shown = drawn(late)
    assert "busy" not in shown
    assert shown.split() == ["first", "done", "\u4e2d\u6587!", "xbc"]
    assert "http" not in late.read_text(encoding="utf-8").split("<defs>")[1]


def drawn(picture: Path) -> str:
    """The characters of the screen, without the window's title."""
    svg = picture.read_text(encoding="utf-8")
    screen = svg[svg.index('-matrix">') :]
    return re.sub(r"<[^>]*>", " ", screen).replace("&#160;", " ").replace('matrix">', "").lstrip("-")
