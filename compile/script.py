"""A plan as a plain shell script, for those who want to read it, carry it or run it by hand. Runs nothing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import jinja2

from compile.steps import COMPILER, EXPORTER, Plan
from compile.toolchain import Runner

_WIDTH = 100


def render(plan: Plan, runners: Mapping[str, Runner]) -> str:
    """The script: every step in turn, in the folders that the executor uses."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    # The output is a shell script, and each value in it is quoted for the shell.
    environment = jinja2.Environment(
        loader=loader,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"quote": shlex.quote, "words": _words}
    return environment.get_template("script.sh.j2").render(
        plan=plan,
        name=_comment(plan.folder.name),
        folder=shlex.quote(str(plan.folder)),
        exporter=runners[EXPORTER].shell(),
        compiler=runners[COMPILER].shell(),
    )


def _words(command: Iterable[str]) -> str:
    """Quoted words; a long command goes on over lines, an option and its values to a line."""
    words = [shlex.quote(word) for word in command]
    if len(" ".join(words)) <= _WIDTH:
        return " ".join(words)
    lines = [[words[0]]]
    for word in words[1:]:
        if (word.startswith("-") and word != "--") or len(" ".join([*lines[-1], word])) > _WIDTH:
            lines.append([])
        lines[-1].append(word)
    return " \\\n  ".join(" ".join(line) for line in lines)


def _comment(text: str) -> str:
    return text.replace("\n", " ")
