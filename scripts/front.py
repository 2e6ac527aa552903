"""The Makefile's helper: refuses a mistyped value or name at once, before anything is set up. Standard library only.

front.py check MODE=int4 DEV=1 ...     exit 2 where a value does not exist
front.py build RECIPE MODE=int4 ...    run `hf2bmodel build RECIPE --mode int4 ...`
front.py variables | help              their names, or the table of `make help`
front.py unknown TARGET NAME...        says that TARGET is none of NAMEs, and what was perhaps meant
"""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from contract.errors import UserError, one_of
from contract.options import CHOICE, NUMBER, OPTIONS, SWITCH, Option, by_variable

ROOT = Path(__file__).resolve().parent.parent


def given(words: list[str]) -> list[tuple[Option, str]]:
    """UserError for the first VARIABLE=value that cannot be; an empty value is one that was not given."""
    known, found = by_variable(), []
    for word in words:
        name, _, value = word.partition("=")
        if value:
            known[name].parse(value, name)
            found.append((known[name], value))
    return found


def command(recipe: str, words: list[str]) -> list[str]:
    """What make runs for a recipe."""
    argv = [str(ROOT / ".venv/bin/hf2bmodel"), "build", recipe]
    for option, value in given(words):
        negative = option.kind == SWITCH and value == "0"
        argv += [f"--no-{option.flag[2:]}" if negative else option.flag, *([value] if option.kind != SWITCH else [])]
    return argv


def table() -> str:
    """The variables as `make help` prints them."""
    rows = []
    for option in OPTIONS:
        values = {CHOICE: "|".join(map(str, option.allowed)), NUMBER: "n", SWITCH: "0|1"}.get(option.kind, "...")
        usual = f" (default {option.default})" if option.default and option.kind != SWITCH else ""
        rows.append(f"  {f'{option.variable}={values}':<36} {option.help}{usual}")
    return "\n".join(rows)


def unknown(name: str, names: list[str]) -> None:
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    remedy = f"did you mean {one_of(near)}?" if near else "`make help` lists them"
    raise UserError(f'"{name}" is neither a recipe nor a target', remedy=remedy)


def main(argv: list[str]) -> int:
    try:
        if argv[:1] == ["check"]:
            given(argv[1:])
        elif argv[:1] == ["variables"]:
            print(*by_variable())
        elif argv[:1] == ["help"]:
            print(table())
        elif argv[:1] == ["build"] and len(argv) > 1:
            words = command(argv[1], argv[2:])
            os.execv(words[0], words)
        elif argv[:1] == ["unknown"] and len(argv) > 1:
            unknown(argv[1], argv[2:])
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except UserError as error:
        print(f"make: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
